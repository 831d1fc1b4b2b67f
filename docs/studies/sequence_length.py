"""How errors depend on the sequence length: plain PyTorch, flash attention and our Triton kernel, in fp16 and bf16."""

import click
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rounding import Flash
from study import COLOURS, OUTPUTS, Row, command, curve, error, markdown

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.problem import Dense, DType, Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.kernels.values import Family

NAME = "sequence-length"
DTYPES: tuple[DType, ...] = ("float16", "bfloat16")
# The longest of each; plain fp16 on a CPU takes half of the time.
LONGEST: dict[Family, int] = {"randn": 8192, "outliers": 2048, "shifted_mean": 2048, "tied_keys": 2048}
# Triton's interpreter pays for every tile.
INTERPRETED = 512
ROWS = 1024  # queries at least, over all heads: few would leave the maximum to chance
OURS = TritonKernel()
ARITHMETIC = {"PyTorch": baseline, "flash": Flash(), OURS.name: OURS}


def measure(quick: bool) -> list[Row]:
    """A row for each family, dtype, length, arithmetic and tensor."""
    for reason in OURS.unavailable(torch.device("cpu")):
        click.echo(f"without {OURS.name}: {reason}", err=True)
    rows: list[Row] = []
    for family, longest in LONGEST.items():
        for dtype in DTYPES:
            length = 64
            while length <= (64 if quick else longest):
                rows += measured(family, dtype, length, heads=max(1, (128 if quick else ROWS) // length))
                length *= 2
    return rows


def measured(family: Family, dtype: DType, length: int, heads: int) -> list[Row]:
    """All arithmetics on one problem with as many queries as keys."""
    problem = Problem(
        dtype=dtype,
        lengths=Dense(seqlen_q=length, seqlen_k=length),
        heads_q=heads,
        heads_kv=heads,
        values=family,
        direction="forward_backward",
    )
    tensors = make_tensors(problem)
    exact = reference(problem, tensors)
    rows: list[Row] = []
    for name, attention in ARITHMETIC.items():
        if name == OURS.name and (length > INTERPRETED or OURS.unavailable(tensors.q.device)):
            continue
        found = attention(problem, tensors)
        for output in OUTPUTS:
            off = error(output, dtype, found, exact)
            about = {"family": family, "dtype": dtype, "seqlen": length, "arithmetic": name, "output": output}
            rows.append({**about, "rmse": off.rmse, "max": off.max_abs, "rms": off.reference_rms})
    return rows


def table(rows: list[Row]) -> str:
    """PyTorch's and flash attention's RMSE at the longest length, and ratios over all lengths and tensors."""
    lines = []
    for family, dtype in dict.fromkeys((row["family"], row["dtype"]) for row in rows):
        mine = [row for row in rows if (row["family"], row["dtype"]) == (family, dtype)]
        at = {(row["arithmetic"], row["output"], row["seqlen"]): row for row in mine}
        last = max(row["seqlen"] for row in mine)
        cells = [f"{at['PyTorch', o, last]['rmse']:.1e} / {at['flash', o, last]['rmse']:.1e}" for o in OUTPUTS]
        spans = [
            span([at[name, o, n][key] / at["flash", o, n][key] for what, o, n in at if what == name])
            for name, key in (("PyTorch", "rmse"), ("PyTorch", "max"), (OURS.name, "rmse"))
        ]
        lines.append([family, dtype, str(last), *cells, *spans])
    ratios = ("PyTorch / flash", "of the maximum", f"{OURS.name} / flash")
    return markdown(["values", "dtype", "seqlen", *OUTPUTS, *ratios], lines)


def span(values: list[float]) -> str:
    """From the least to the largest."""
    return f"{min(values):.2g} to {max(values):.2g}" if values else "not run"


def chart(rows: list[Row]) -> Figure:
    """RMSE by length: a panel for each family and tensor."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure, axes = plt.subplots(
        len(families),
        len(OUTPUTS),
        figsize=(9, 2.1 * len(families) + 0.7),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    looks = {"PyTorch": (COLOURS[1], "o"), "flash": (COLOURS[0], "s"), OURS.name: (COLOURS[2], "x")}
    for across, family in zip(axes, families, strict=True):
        for axis, output in zip(across, OUTPUTS, strict=True):
            for name, (colour, marker) in looks.items():
                for dtype, style in (("float16", "--"), ("bfloat16", "-")):
                    line = {"family": family, "dtype": dtype, "arithmetic": name, "output": output}
                    mine = [row for row in rows if line.items() <= row.items()]
                    label = f"{name}, {'fp16' if dtype == 'float16' else 'bf16'}"
                    look = {"color": colour, "marker": marker, "markersize": 4, "linestyle": style, "linewidth": 1}
                    curve(axis, mine, **look, label=label)
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_title(f"{family}: {output}", fontsize=10)
        across[0].set_ylabel("RMSE against fp64")
    for axis in axes[-1]:
        axis.set_xlabel("sequence length (tokens)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


main = command(NAME, measure, table, chart)

if __name__ == "__main__":
    main()
