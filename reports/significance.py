"""When a difference between two runs is more than chance: which tests, at which level, corrected for their number.

Two runs differ in hundreds of numbers, and at any level some of those differ by chance. Holm's correction (1979) keeps
the probability that even one of all that are called worse is chance below `LEVEL`, whatever depends on what. A
difference must also matter: with thousands of tensors the slightest is beyond chance.
"""

import math
from collections.abc import Sequence

from scipy import stats

LEVEL = 0.01


def rates(bad_a: int, judged_a: int, bad_b: int, judged_b: int) -> float:
    """Fisher's exact test, one-sided: how likely B is to fail this often, or more, if both fail equally often."""
    table = [[bad_b, judged_b - bad_b], [bad_a, judged_a - bad_a]]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def pairs(a: Sequence[float], b: Sequence[float]) -> float:
    """The sign test, one-sided: how likely as many of the pairs are larger in B if either side is as likely.

    It asks nothing of the distributions, and infinities count as any other value. Equal pairs say nothing and are left
    out; without any other the answer is 1.
    """
    larger = sum(y > x for x, y in zip(a, b, strict=True))
    smaller = sum(y < x for x, y in zip(a, b, strict=True))
    if not larger + smaller:
        return 1.0
    return float(stats.binomtest(larger, larger + smaller, alternative="greater").pvalue)


def samples(a: Sequence[float], b: Sequence[float]) -> float:
    """Mann and Whitney's U test, one-sided: how likely B's ranks are this high if both are drawn alike.

    1 if a sample is empty.
    """
    if not a or not b:
        return 1.0
    return float(stats.mannwhitneyu(b, a, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values corrected for how many there are, in the same order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = highest
    return tuple(corrected)


def growth(a: float, b: float) -> float:
    """B / A of two medians that are not negative; 1 if they are equal, 0 and infinity among them."""
    if a == b:
        return 1.0
    return math.inf if a == 0 else b / a
