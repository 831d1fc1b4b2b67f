"""Tables and charts of benchmark runs: `python -m fa2verify.benchmarks.results RECORDS... --output=FOLDER`.

RECORDS are files of benchmark records, or folders that hold one; several are shown as one run, which they should be of
one machine. It writes `tables.md`, `speed-DIRECTION.svg` as people know it (bars of TFLOP/s by sequence length, a panel
for each head_dim and mask) and `memory.svg`. Needs no torch.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import click
import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is started

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from fa2verify.benchmarks.tables import Line, of_kind, tables
from fa2verify.reports.benchmark_record import FILE, Memory, Timing, read

# Distinct in print and to the colour-blind (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666", "#000000")


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="A folder.")
@click.option("--against", default="torch-flash", show_default=True, help="The kernel that speeds are ratios to.")
@click.option("--kernel", "only", multiple=True, help="Show this kernel only, in the order given; repeatable.")
def main(records: tuple[Path, ...], output: Path, against: str, only: tuple[str, ...]) -> None:
    """Write tables and charts of RECORDS into a folder."""
    paths = [path / FILE if path.is_dir() else path for path in records]
    if missing := [path for path in paths if not path.is_file()]:
        raise click.UsageError(f"{missing[0]}: there is no such file; a benchmark run leaves {FILE}")
    lines: list[Line] = list(itertools.chain.from_iterable(read(path) for path in paths))
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text(tables(lines, against, only), encoding="utf-8")
    drawn = [*speed_charts(lines, output, only), *memory_chart(lines, output, only)]
    click.echo(f"{len(lines)} records: tables.md {' '.join(path.name for path in drawn)}")


def speed_charts(lines: Sequence[Line], output: Path, only: Sequence[str] = ()) -> list[Path]:
    """A figure for each direction of FlashAttention's grid; nothing without one."""
    timings = [line for line in of_kind(lines, Timing) if line.grid == "flash" and line.outcome == "measured"]
    made = []
    for direction in dict.fromkeys(line.direction for line in timings):
        chosen = [line for line in timings if line.direction == direction and (not only or line.kernel in only)]
        panels = sorted({_panel(line) for line in chosen})
        if not panels:
            continue
        head_dims, masks = (sorted({panel[axis] for panel in panels}) for axis in (0, 1))
        shape = (len(head_dims), len(masks))
        figure, axes = plt.subplots(*shape, figsize=(6 * shape[1], 3 * shape[0]), squeeze=False, layout="constrained")
        for (row, head_dim), (column, causal) in itertools.product(enumerate(head_dims), enumerate(masks)):
            inside = [line for line in chosen if _panel(line) == (head_dim, causal)]
            axis = axes[row][column]
            bars(axis, inside, list(dict.fromkeys(line.kernel for line in chosen)))
            axis.set_title(f"head_dim {head_dim}, {'causal' if causal else 'full'}")
        axes[0][0].legend(fontsize="small")
        figure.suptitle(f"{direction}, TFLOP/s")
        path = output / f"speed-{direction}.svg"
        figure.savefig(path)
        plt.close(figure)
        made.append(path)
    return made


def bars(axis: Axes, timings: Sequence[Timing], kernels: Sequence[str]) -> None:
    """Groups by sequence length, a bar a kernel; medians."""
    seqlens = sorted({_seqlen(line) for line in timings})
    width = 0.8 / max(1, len(kernels))
    for number, kernel in enumerate(kernels):
        found = {_seqlen(line): line.tflops for line in timings if line.kernel == kernel}
        places = [index - 0.4 + (number + 0.5) * width for index, seqlen in enumerate(seqlens) if seqlen in found]
        heights = [found[seqlen] for seqlen in seqlens if seqlen in found]
        axis.bar(places, heights, width, label=kernel, color=_COLOURS[number % len(_COLOURS)])
    axis.set_xticks(range(len(seqlens)), [str(seqlen) for seqlen in seqlens])
    axis.set_xlabel("sequence length")


def memory_chart(lines: Sequence[Line], output: Path, only: Sequence[str] = ()) -> list[Path]:
    """Peak memory of forward and backward by length, both axes logarithmic; nothing without records."""
    found = [line for line in of_kind(lines, Memory) if line.direction == "both" and line.outcome == "measured"]
    chosen = [line for line in found if not only or line.kernel in only]
    if not chosen:
        return []
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, kernel in enumerate(dict.fromkeys(line.kernel for line in chosen)):
        points = sorted((line.seqlen, line.bytes / 1e6) for line in chosen if line.kernel == kernel)
        colour = _COLOURS[number % len(_COLOURS)]
        axis.plot(*zip(*points, strict=True), marker="o", label=kernel, color=colour)
    axis.set(
        xscale="log", yscale="log", xlabel="sequence length", ylabel="MB", title="peak memory, forward and backward"
    )
    axis.legend(fontsize="small")
    path = output / "memory.svg"
    figure.savefig(path)
    plt.close(figure)
    return [path]


def _panel(line: Timing) -> tuple[int, bool]:
    # A problem's JSON leaves out what is at its default: head_dim 64, no mask.
    return int(line.problem.get("head_dim", 64)), line.problem.get("causal") is not None


def _seqlen(line: Timing) -> int:
    return int(line.problem["lengths"]["seqlen_q"])


if __name__ == "__main__":
    main()
