"""Does rounding push the output one way, and whose: the mean signed error in bf16 by family of values.

arXiv 2510.04212 traces a training failure to two or more equal maxima in a row of scores over values of one sign: P is
exactly 1 there, and the sum of two such values is rounded in bf16. The sum often lies half-way between two bf16
numbers, and the small remaining terms, all of one sign, decide every one of those the same way.
"""

import statistics
from collections.abc import Callable

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rounding import Flash
from study import COLOURS, Row, command, error, markdown

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.kernels.values import FAMILIES

NAME = "biased-rounding"
LENGTH, HEADS, SEEDS = 200, 4, 12
ARITHMETIC: dict[str, Callable[[Problem, Tensors], Outputs]] = {
    "PyTorch": baseline,
    "flash": Flash(),
    "flash, all bf16": Flash(rounds="everything"),
    "flash, all bf16, shifted": Flash(rounds="everything", shift=True),
}


def measure(quick: bool) -> list[Row]:
    """A row for each family and arithmetic: mean over seeds of `bias`, and its standard error."""
    rows: list[Row] = []
    length, seeds = (48, 2) if quick else (LENGTH, SEEDS)
    for family in FAMILIES:
        found: dict[str, list[float]] = {name: [] for name in ARITHMETIC}
        for seed in range(seeds):
            problem = Problem(
                dtype="bfloat16",
                lengths=Dense(seqlen_q=length, seqlen_k=length),
                heads_q=HEADS,
                heads_kv=HEADS,
                values=family,
                seed=seed,
            )
            tensors = make_tensors(problem)
            exact = reference(problem, tensors)
            for name, attention in ARITHMETIC.items():
                found[name].append(error("out", problem.dtype, attention(problem, tensors), exact).bias)
        for name, biases in found.items():
            spread = statistics.stdev(biases) / len(biases) ** 0.5
            rows.append({"family": family, "arithmetic": name, "bias": statistics.mean(biases), "error": spread})
    return rows


def table(rows: list[Row]) -> str:
    """Bias and its standard error, in units of u."""
    lines = []
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = {row["arithmetic"]: row for row in rows if row["family"] == family}
        lines.append([family, *(f"{mine[name]['bias']:+.3f} ± {mine[name]['error']:.3f}" for name in ARITHMETIC)])
    return markdown(["values", *ARITHMETIC], lines)


def chart(rows: list[Row]) -> Figure:
    """Bias by family, a mark for each arithmetic, bars of two standard errors."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    for number, (name, colour) in enumerate(zip(ARITHMETIC, COLOURS, strict=False)):
        mine = [row for row in rows if row["arithmetic"] == name]
        axis.errorbar(
            [row["bias"] for row in mine],
            [families.index(row["family"]) + 0.18 * (number - 1.5) for row in mine],
            xerr=[2 * row["error"] for row in mine],
            fmt="os^D"[number], color=colour, markersize=5, linewidth=1, label=name,
        )  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(families)), families)
    axis.invert_yaxis()
    axis.set_xlabel("mean signed error of O / (u · mean |O|), u = 2⁻⁸; bars: two standard errors")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


main = command(NAME, measure, table, chart)

if __name__ == "__main__":
    main()
