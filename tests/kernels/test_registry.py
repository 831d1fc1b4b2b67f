"""Where kernels come from, and what is said when they do not."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from fa2verify.kernels import registry
from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.registry import KernelSpecError, UnloadableKernel, builtin, entry_points, load, select
from fa2verify.kernels.tensors import make_tensors

FUNCTION = "def attention(q, k, v, causal=False):\n    return q\n"
KERNEL = dedent("""
    from fa2verify.kernels.kernel import Kernel, Outputs

    class Mine(Kernel):
        name = "{name}"
        lineage = "mine"

        def unavailable(self, device):
            return ()

        def unsupported(self, problem):
            return ()

        def __call__(self, problem, tensors):
            return Outputs(tensors.q)

    mine = Mine()
""")

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current directory, an empty one; imports and sys.path are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def install(write: Write) -> Callable[[str, str], None]:
    """Installs a distribution named like its module, with entry points."""

    def install(module: str, entry_points: str) -> None:
        write(f"site/{module}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        listed = write(f"site/{module}-1.0.dist-info/entry_points.txt", f"[fa2verify.kernels]\n{entry_points}\n")
        site = str(listed.parents[1])
        if site not in sys.path:
            sys.path.append(site)

    return install


def test_built_in_kernels_have_names_lineages_and_an_origin() -> None:
    registered = builtin()
    names = [each.kernel.name for each in registered]
    assert len(set(names)) == len(names)
    assert names[:4] == ["fa2verify-triton", "fa2verify-cuda", "fa2verify-cuda-emulated", "torch-math"]
    assert {each.origin for each in registered} == {"built in"}
    assert all(each.kernel.lineage for each in registered)


def test_two_doors_to_one_upstream_code_are_one_lineage() -> None:
    lineage = {each.kernel.name: each.kernel.lineage for each in builtin()}
    assert lineage["torch-flash"] == lineage["torch-varlen"]
    assert lineage["fa2verify-cuda"] == lineage["fa2verify-cuda-emulated"]
    others = [name for name in lineage if name not in ("torch-varlen", "fa2verify-cuda-emulated")]
    assert len({lineage[name] for name in others}) == len(others)


def test_without_triton_the_peers_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fa2verify.kernels.triton.kernel", None)
    ours, *others = builtin()
    (reason,) = ours.kernel.unavailable(torch.device("cpu"))
    assert reason.startswith("It cannot be imported: ModuleNotFoundError")
    assert ours.kernel.unsupported(Problem()) == (reason,)
    assert {type(each.kernel) for each in others} >= set(registry._PEERS)
    with pytest.raises(RuntimeError, match="cannot be imported"):
        ours.kernel(Problem(), make_tensors(Problem()))


def test_nothing_named_means_all() -> None:
    assert [each.kernel.name for each in select(())] == [each.kernel.name for each in builtin()]


def test_by_name_in_the_order_asked_for() -> None:
    assert [each.kernel.name for each in select(["torch-flash-cpu", "torch-math"])] == ["torch-flash-cpu", "torch-math"]


def test_an_unknown_name_shows_close_ones() -> None:
    with pytest.raises(KernelSpecError) as caught:
        select(["torch-mth"])
    message = str(caught.value)
    assert message.startswith("'torch-mth' is the name of no kernel; did you mean 'torch-math'")
    assert "flash-attn" in message
    assert "module:object or path/to/file.py:object" in message


@pytest.mark.parametrize("place", ["mine_a", "./mine_a.py", "mine_a.py"])
def test_a_function_in_the_current_directory(write: Write, place: str) -> None:
    write("mine_a.py", FUNCTION)
    spec = f"{place}:attention"
    (registered,) = select([spec])
    assert registered.origin == f"--kernel={spec}"
    assert registered.kernel.name == spec
    assert isinstance(registered.kernel, FunctionKernel)
    assert registered.kernel(Problem(), make_tensors(Problem())).out.shape == (1, 1, 1, 64)


def test_the_current_directory_comes_last_and_stays(write: Write, tmp_path: Path) -> None:
    # What lies here under an installed package's name does not shadow it.
    write("click.py", FUNCTION)
    write("mine_b.py", FUNCTION)
    with pytest.raises(KernelSpecError, match="click has no attribute 'attention'"):
        load("click:attention")
    load("mine_b:attention")
    assert sys.path[-1] == str(tmp_path)


def test_a_file_sees_its_neighbours(write: Write) -> None:
    write("deep/neighbour.py", FUNCTION)
    write("deep/mine_c.py", "from neighbour import attention\n")
    assert load("deep/mine_c.py:attention").kernel.name == "deep/mine_c.py:attention"


def test_two_files_of_one_name_are_two_modules(write: Write) -> None:
    write("one/kernel.py", KERNEL.format(name="one"))
    write("two/kernel.py", KERNEL.format(name="two"))
    selected = select(["one/kernel.py:mine", "two/kernel.py:mine", "one/kernel.py:mine.__class__"][:2])
    assert [each.kernel.name for each in selected] == ["one", "two"]
    assert load("one/kernel.py:mine").kernel is selected[0].kernel


@pytest.mark.parametrize("path", ["mine", "Mine", "Holder.inner"])
def test_a_kernel_a_class_and_a_dotted_path(write: Write, path: str) -> None:
    write("mine_d.py", KERNEL.format(name="mine-d") + "\nclass Holder:\n    inner = mine\n")
    kernel = load(f"mine_d:{path}").kernel
    assert isinstance(kernel, Kernel)
    assert kernel.name == "mine-d"


ABSTRACT = "from fa2verify.kernels.kernel import Kernel\nclass Abstract(Kernel):\n    pass\n"
NAMELESS = KERNEL.format(name="x").replace('name = "x"', "pass")
ERRORS = [
    ("no_such_module:f", "there is no module 'no_such_module', neither installed nor in the directory"),
    ("mine_e.no_such:f", "there is no module 'mine_e.no_such'"),
    ("no_such_file.py:f", "there is no file"),
    ("mine_e:", "is no spec; it must be module:object or path/to/file.py:object"),
    (":f", "is no spec"),
    ("mine_e:atention", "mine_e has no attribute 'atention'; did you mean 'attention'?"),
    ("mine_e:attention.deeper", "mine_e:attention has no attribute 'deeper'"),
    ("mine_e:number", "is a int and cannot be called"),
    ("mine_e:Plain", "mine_e:Plain is a class, but no subclass of fa2verify.kernels.kernel.Kernel"),
    ("mine_e:bad", "takes 1 arguments by position"),
    ("broken:f", "cannot import broken: ZeroDivisionError: division by zero"),
    ("broken.py:f", "ZeroDivisionError: division by zero"),
    ("needy:f", "cannot import needy: ModuleNotFoundError: No module named 'not_installed_here'"),
    ("abstract:Abstract", "abstract"),
    ("nameless:mine", "nameless:mine is a Kernel without name; a subclass sets it to a string"),
]


@pytest.mark.parametrize(("spec", "words"), ERRORS)
def test_what_leads_to_no_kernel_says_what_was_tried(write: Write, spec: str, words: str) -> None:
    write("mine_e.py", FUNCTION + "number = 3\nclass Plain: pass\ndef bad(q): return q\n")
    write("broken.py", "1 / 0\n")
    write("needy.py", "import not_installed_here\n")
    write("abstract.py", ABSTRACT)
    write("nameless.py", NAMELESS)
    with pytest.raises(KernelSpecError) as caught:
        select([spec])
    assert spec in str(caught.value)
    assert words in str(caught.value)


def test_a_broken_file_is_read_again(write: Write) -> None:
    write("mended.py", "1 / 0\n")
    with pytest.raises(KernelSpecError):
        load("mended.py:attention")
    write("mended.py", FUNCTION)
    assert load("mended.py:attention").kernel.name == "mended.py:attention"


def test_entry_points_of_installed_distributions(write: Write, install: Callable[[str, str], None]) -> None:
    write("site/plugged.py", KERNEL.format(name="plugged-instance") + FUNCTION)
    install("plugged", "a-function = plugged:attention\nb-instance = plugged:mine\n")
    function, instance = entry_points()
    assert (function.kernel.name, function.origin) == ("a-function", "entry point a-function")
    assert (instance.kernel.name, instance.origin) == ("plugged-instance", "entry point b-instance")
    assert [each.kernel.name for each in select(())][-2:] == ["a-function", "plugged-instance"]
    assert select(["a-function"])[0].origin == "entry point a-function"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_package:f", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("shattered:f", "ZeroDivisionError"),
        ("plugged_b:missing", "AttributeError"),
        ("plugged_b:number", "TypeError: 3 is a int and cannot be called"),
    ],
)
def test_a_broken_entry_point_is_an_unavailable_kernel(
    write: Write, install: Callable[[str, str], None], value: str, words: str
) -> None:
    write("site/shattered.py", "1 / 0\n")
    write("site/plugged_b.py", "number = 3\n")
    install("plugged_b", f"wrecked = {value}\n")
    registered = select(())[-1]
    assert isinstance(registered.kernel, UnloadableKernel)
    assert registered.kernel.name == "wrecked"
    (reason,) = registered.kernel.unavailable(torch.device("cpu"))
    assert reason.startswith(f"{value} cannot be loaded: ")
    assert words in reason


def test_two_kernels_of_one_name_are_an_error_that_names_both(
    write: Write, install: Callable[[str, str], None]
) -> None:
    write("site/plugged_c.py", KERNEL.format(name="torch-math"))
    install("plugged_c", "mine = plugged_c:mine\n")
    with pytest.raises(KernelSpecError, match="two kernels are named 'torch-math'") as caught:
        select(())
    assert "one from built in, one from entry point mine" in str(caught.value)


def test_a_kernel_asked_for_twice_is_an_error(write: Write) -> None:
    write("mine_f.py", KERNEL.format(name="mine-f"))
    with pytest.raises(KernelSpecError, match="two kernels are named 'mine-f'"):
        select(["mine_f:mine", "mine_f:Mine"])
