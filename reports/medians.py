"""How sure a median is. Needs neither torch nor scipy: a report is made without them."""

import math
import statistics
from collections.abc import Sequence

# Of a median: half its interval of 95 % confidence, as a share of it; its standard deviation is then 0.5 %. A ratio of
# one run over that of another has four such medians, and 1 %: 3 % are three standard deviations.
SURE = 0.01


def uncertainty(values: Sequence[float]) -> float:
    """Half the interval that holds the median of all such values with 95 % confidence, over the median of these.

    By order statistics, so that it assumes nothing of how they are spread; infinite for fewer than 6. (Conover,
    Practical Nonparametric Statistics, 3.2: as many of n values lie below the median as heads come in n tosses.)
    """
    number, rank, fewer = len(values), 0, 0
    # The interval ends `rank` values from either end: so many or fewer heads may come in 1 of 40 cases.
    while 40 * (fewer := fewer + math.comb(number, rank)) <= 2**number:
        rank += 1
    if not rank:
        return math.inf
    ordered = sorted(values)
    return (ordered[-rank] - ordered[rank - 1]) / 2 / statistics.median(ordered)
