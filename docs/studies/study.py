"""What the studies share: their options, how an error is measured, and what they leave behind.

Each study is a script that prints its table and writes NAME.json, the numbers, and NAME.png, the picture.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is started

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fa2verify.kernels.kernel import Outputs
from fa2verify.reports.record import OutputError, OutputName
from fa2verify.verify.judgement.measure import Comparison

Row = dict[str, Any]
OUTPUTS: tuple[OutputName, ...] = ("out", "dq", "dk", "dv")

# Distinct in print and to the colour-blind (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def error(output: OutputName, dtype: str, found: Outputs, exact: Outputs) -> OutputError:
    """One tensor's error as the suite's own records have it; there is no bound, so its shares of one mean nothing."""
    candidate, reference = getattr(found, output), getattr(exact, output)
    return Comparison(output, dtype, candidate, reference, None, torch.ones_like(reference)).error()


def root_mean_square(values: Sequence[float]) -> float:
    """Of RMSEs over as many elements each: the RMSE over all of them."""
    return math.sqrt(sum(value**2 for value in values) / len(values))


def shortened(value: Any) -> Any:
    """Numbers to the four digits that are kept, so that table and picture show what the file has."""
    return float(f"{value:.3e}") if isinstance(value, float) else value


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]) + "\n"


def curve(axis: Axes, rows: Sequence[Row], **look: Any) -> None:
    """RMSE by sequence length, both axes logarithmic; `look` is matplotlib's."""
    axis.plot([row["seqlen"] for row in rows], [row["rmse"] for row in rows], **look)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")


def command(
    name: str,
    measure: Callable[[bool], list[Row]],
    table: Callable[[list[Row]], str],
    chart: Callable[[list[Row]], Figure],
) -> click.Command:
    """The script of one study.

    measure  the numbers, a row each; given True it takes small sizes only
    table    of those rows, in Markdown
    chart    of those rows
    """

    @click.command(help=f"Measure, print a table, write {name}.json and {name}.png.")
    @click.option(
        "--out", default=Path(__file__).parent, type=click.Path(file_okay=False, path_type=Path), help="Where."
    )
    @click.option("--quick", is_flag=True, help="Small sizes only: whether it runs, not what it finds.")
    def script(out: Path, quick: bool) -> None:
        torch.set_num_threads(1)  # a sum's order, and with it the last digits, follow the number of threads
        rows = [{key: shortened(value) for key, value in row.items()} for row in measure(quick)]
        click.echo(table(rows))
        out.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in rows)
        (out / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        with plt.rc_context({"axes.grid": True, "grid.alpha": 0.3, "font.size": 10, "axes.formatter.min_exponent": 2}):
            figure = chart(rows)
        figure.savefig(out / f"{name}.png", dpi=100)
        plt.close(figure)

    return script
