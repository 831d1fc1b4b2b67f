"""Is flash attention less exact than standard attention in bf16: it depends on what is kept in bf16 between blocks.

arXiv 2405.02803 found about ten times the deviation of standard attention in a forward pass of its own, whose precision
can be chosen. Kernels keep the running maximum, sum and O in fp32; a rewriting in PyTorch that runs in bf16 does not.
"""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rounding import Flash
from study import COLOURS, Row, command, curve, error, markdown, root_mean_square

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors

NAME = "carried-state"
ARITHMETIC = {
    "PyTorch": baseline,
    "flash, fp32 state, 64 keys a block": Flash(),
    "flash, bf16 state, 64 keys a block": Flash("state"),
    "flash, bf16 state, 16 keys a block": Flash("state", width=16),
    "flash, all bf16, 64 keys a block": Flash("everything"),
    "flash, all bf16, 16 keys a block": Flash("everything", width=16),
}
LENGTHS = (64, 256, 1024, 4096, 16384)
QUERIES, SEEDS = 128, 4


def measure(quick: bool) -> list[Row]:
    """A row for each number of keys and arithmetic: RMSE and maximum error of O over all seeds."""
    rows: list[Row] = []
    for length in LENGTHS[: 2 if quick else None]:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARITHMETIC}
        for seed in range(1 if quick else SEEDS):
            problem = Problem(dtype="bfloat16", lengths=Dense(seqlen_q=QUERIES, seqlen_k=length), seed=seed)
            tensors = make_tensors(problem)
            exact = reference(problem, tensors)
            for name, attention in ARITHMETIC.items():
                off = error("out", problem.dtype, attention(problem, tensors), exact)
                found[name].append((off.rmse, off.max_abs))
        for name, errors in found.items():
            rmse = root_mean_square([each for each, _ in errors])
            rows.append({"seqlen": length, "arithmetic": name, "rmse": rmse, "max": max(most for _, most in errors)})
    return rows


def table(rows: list[Row]) -> str:
    """RMSE (maximum) of each arithmetic in units of PyTorch's, and PyTorch's own."""
    lengths = sorted({row["seqlen"] for row in rows})
    at = {(row["arithmetic"], row["seqlen"]): row for row in rows}
    lines = [["PyTorch itself", *(f"{at['PyTorch', n]['rmse']:.1e} ({at['PyTorch', n]['max']:.1e})" for n in lengths)]]
    for name in list(ARITHMETIC)[1:]:
        ratios = [[at[name, n][key] / at["PyTorch", n][key] for key in ("rmse", "max")] for n in lengths]
        lines.append([name, *(f"{rmse:.2f} ({most:.2f})" for rmse, most in ratios)])
    return markdown(["RMSE (maximum)", *(f"{length} keys" for length in lengths)], lines)


def chart(rows: list[Row]) -> Figure:
    """RMSE by number of keys."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    looks = ((1, "o", "-"), (0, "s", "-"), (2, "^", "-"), (2, "^", "--"), (3, "D", "-"), (3, "D", "--"))
    for name, (colour, marker, style) in zip(ARITHMETIC, looks, strict=True):
        mine = [row for row in rows if row["arithmetic"] == name]
        curve(axis, mine, color=COLOURS[colour], marker=marker, linestyle=style, label=name)
    axis.set_xlabel("keys")
    axis.set_ylabel("RMSE of O against fp64, bf16, randn")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


main = command(NAME, measure, table, chart)

if __name__ == "__main__":
    main()
