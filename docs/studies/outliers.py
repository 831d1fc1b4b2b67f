"""FlashAttention-3's RMSE table: standard attention and flash attention on inputs with outliers, in fp16.

Its inputs are N(0, 1) + N(0, 100) * Bernoulli(0.001), the suite's family `outliers` (arXiv 2407.08608, section 4.3).
"""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rounding import Flash
from study import COLOURS, Row, command, curve, error, markdown, root_mean_square

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors

NAME = "outliers"
# The paper's table 3, in fp16; it states no shape.
PUBLISHED = {"PyTorch": 3.2e-4, "flash": 1.9e-4}
ARITHMETIC = {"PyTorch": baseline, "flash": Flash()}
HEAD_DIMS = (64, 128, 256)
LENGTHS = (128, 512, 2048)
QUERIES, SEEDS = 512, 8


def measure(quick: bool) -> list[Row]:
    """A row for each shape and arithmetic: RMSE of O over all seeds, and the RMS of O."""
    rows: list[Row] = []
    seeds = range(1 if quick else SEEDS)
    for head_dim in HEAD_DIMS:
        for length in LENGTHS[: 1 if quick else None]:
            found: dict[str, list[float]] = {name: [] for name in ARITHMETIC}
            sizes = []
            for seed in seeds:
                problem = Problem(
                    lengths=Dense(seqlen_q=64 if quick else QUERIES, seqlen_k=length),
                    head_dim=head_dim,
                    values="outliers",
                    seed=seed,
                )
                tensors = make_tensors(problem)
                exact = reference(problem, tensors)
                for name, attention in ARITHMETIC.items():
                    off = error("out", problem.dtype, attention(problem, tensors), exact)
                    found[name].append(off.rmse)
                sizes.append(off.reference_rms)
            rms = root_mean_square(sizes)
            for name, errors in found.items():
                about = {"head_dim": head_dim, "seqlen": length, "arithmetic": name}
                rows.append({**about, "rmse": root_mean_square(errors), "rms": rms})
    return rows


def table(rows: list[Row]) -> str:
    """RMSE of both beside the published, and their ratio."""
    shapes = list(dict.fromkeys((row["head_dim"], row["seqlen"]) for row in rows))
    lines = [
        ["published", "not stated", "not stated", *(f"{value:.1e}" for value in PUBLISHED.values()), ratio(PUBLISHED)]
    ]
    for head_dim, length in shapes:
        here = [row for row in rows if (row["head_dim"], row["seqlen"]) == (head_dim, length)]
        mine = {row["arithmetic"]: row["rmse"] for row in here}
        lines.append(
            [
                str(head_dim),
                str(length),
                f"{here[0]['rms']:.2f}",
                *(f"{mine[name]:.1e}" for name in ARITHMETIC),
                ratio(mine),
            ]
        )
    return markdown(
        ["head_dim", "keys", "RMS of O", *(f"{name} RMSE" for name in ARITHMETIC), "PyTorch / flash"], lines
    )


def ratio(errors: dict[str, float]) -> str:
    """Of PyTorch's to flash attention's."""
    return f"{errors['PyTorch'] / errors['flash']:.2f}"


def chart(rows: list[Row]) -> Figure:
    """RMSE by number of keys, a line for each arithmetic and head_dim, the published as level lines."""
    figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for name, colour in zip(ARITHMETIC, (COLOURS[1], COLOURS[0]), strict=True):
        for head_dim, marker, style in zip(HEAD_DIMS, "os^", ("-", "--", ":"), strict=True):
            mine = [row for row in rows if (row["arithmetic"], row["head_dim"]) == (name, head_dim)]
            curve(axis, mine, color=colour, marker=marker, linestyle=style, label=f"{name}, head_dim {head_dim}")
        axis.axhline(PUBLISHED[name], color=colour, linewidth=3, alpha=0.3, label=f"{name}, published")
    axis.set_xlabel("keys")
    axis.set_ylabel("RMSE of O against fp64, fp16")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


main = command(NAME, measure, table, chart)

if __name__ == "__main__":
    main()
