// Lists the problems behind a number, and adds a button that copies to every command. Without it the page shows the
// problems closest to failing, and the filters, which are the style sheet's, still work.

function copier(command) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

for (const command of document.querySelectorAll("pre.command")) command.after(copier(command));

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

const finder = document.getElementById("finder");
if (finder) {
  const list = document.getElementById("list");
  const found = document.getElementById("found");
  const select = Object.fromEntries([..."kfvy"].map((letter) => [letter, document.getElementById(`by-${letter}`)]));
  const wanted = (letter) => select[letter]?.value ?? "";
  const page = 20;
  let shown = page;
  let data; // parsed when it is first asked for: it is most of the page

  const checked = (letter) => {
    const radio = document.querySelector(`input[name="${letter}"]:checked`);
    return radio ? Number(radio.id.slice(1)) : 0;
  };
  const quoted = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;

  function matching() {
    data ??= JSON.parse(document.getElementById("data").textContent);
    const [dtype, direction, kernel, feature, verdict, decoy] = [
      checked("d"), checked("r"), wanted("k"), wanted("f"), wanted("v"), wanted("y"),
    ];
    const hidden = new Set(
      [...document.querySelectorAll('.filters input[type="checkbox"]:not(:checked)')].map((box) => Number(box.id.slice(1))),
    );
    return data.rows.filter(([k, v, d, r, features, decoys]) =>
      !hidden.has(k) && (!dtype || d === dtype) && (!direction || r === direction)
      && (kernel === "" || k === Number(kernel)) && (feature === "" || features.includes(Number(feature)))
      && (verdict === "" || v === verdict)
      && (decoy === "" || decoys[Number(decoy.slice(0, -1))] === decoy.slice(-1)));
  }

  function item([k, verdict, , , , , share, ratio, problem]) {
    const passed = verdict === "passed";
    const line = document.createElement("p");
    line.append(
      element("b", passed ? "" : "bad", `${passed ? "\u2713" : "\u2717"} ${verdict.replace("_", " ")}`),
      " ", element("bdi", "", data.kernels[k]), " ",
      element("span", "muted", `share of the bound ${share}, ratio to PyTorch\u2019s error ${ratio}`),
    );
    const made = document.createElement("li");
    made.append(line);
    if (data.reruns[k] && problem) {
      const command = element("pre", "command", `${data.reruns[k]} ${quoted(problem)}`);
      made.append(command, copier(command));
    } else {
      made.append(element("p", "muted", "Too long for this page; the records have it."));
    }
    return made;
  }

  function update() {
    const rows = matching();
    list.replaceChildren(...rows.slice(0, shown).map(item));
    const count = rows.length === 1 ? "1 problem" : `${rows.length.toLocaleString("en")} problems`;
    found.textContent = rows.length > shown ? `${count}, the first ${shown} of them:` : rows.length ? `${count}:` : "No problem is like this.";
    more.hidden = rows.length <= shown;
  }

  const more = element("button", "", `Show ${page} more`);
  more.type = "button";
  more.hidden = true;
  more.addEventListener("click", () => {
    const first = shown;
    shown += page;
    update();
    const next = list.children[first];
    next.tabIndex = -1;
    next.focus();
  });
  list.after(more);

  document.addEventListener("change", (event) => {
    if (!event.target.matches(".filters input, .finder select")) return;
    shown = page;
    update();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href="#problems"]');
    if (!link || !("k" in link.dataset)) return;
    for (const [letter, box] of Object.entries(select)) if (box) box.value = link.dataset[letter] ?? "";
    shown = page;
    update();
    requestAnimationFrame(() => found.focus());
  });
  finder.hidden = false;
}
