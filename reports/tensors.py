"""Every tensor of one kernel and output, as the distributions that the page draws: share of the bound, and signed bias.

The share says how close to failing a tensor came. The bias sees what no maximum does: roundings that favour a side,
which training adds up (arXiv 2510.04212).
"""

import math
from dataclasses import dataclass

from fa2verify.reports.ratios import quantile, share_of_bound
from fa2verify.reports.record import OutputName
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted


@dataclass(frozen=True, slots=True)
class Tensors:
    """All tensors of one kernel and one output.

    shares   share of the elementwise bound that each reached, ascending; above 1 it failed, inf where it is no number
    biases   signed mean error of each in unit roundoffs, ascending, finite ones
    strange  how many have a bias that is no number
    """

    kernel: str
    output: OutputName
    shares: tuple[float, ...]
    biases: tuple[float, ...]
    strange: int

    @property
    def failed(self) -> tuple[float, ...]:
        """Shares beyond the bound."""
        return tuple(share for share in self.shares if share > 1)

    @property
    def median_share(self) -> float | None:
        """The median share, inf if half of them are no number."""
        return quantile(self.shares, 0.5) if self.shares and math.isfinite(self.shares[-1]) else _middle(self.shares)

    @property
    def median_bias(self) -> float | None:
        """The median of the biases, None without one."""
        return quantile(self.biases, 0.5)

    @property
    def lean(self) -> float | None:
        """Tensors biased upwards less those downwards, in standard deviations of chance: the sign test's z.

        Beyond 3 or so it is hardly chance. None without a tensor that is biased. A mean would be decided by the few
        tensors whose reference cancels to nearly nothing, and whose bias in units of it is then without measure.
        """
        up, down = sum(bias > 0 for bias in self.biases), sum(bias < 0 for bias in self.biases)
        return (up - down) / math.sqrt(up + down) if up + down else None

    @property
    def furthest_bias(self) -> float | None:
        """The bias furthest from 0; NaN if one is no number, None without any."""
        return math.nan if self.strange else max(self.biases, key=abs, default=None)


def tensors(loaded: Loaded) -> tuple[Tensors, ...]:
    """One entry a kernel and output that was measured, in order of appearance."""
    shares: dict[tuple[str, OutputName], list[float]] = {}
    biases: dict[tuple[str, OutputName], list[float]] = {}
    for part in loaded.parts:
        for record in counted(part.records):
            for error in record.errors:
                shares.setdefault((record.kernel, error.output), []).append(share_of_bound(error))
                biases.setdefault((record.kernel, error.output), []).append(error.bias)
    found = []
    for (kernel, output), all_biases in biases.items():
        finite = sorted(bias for bias in all_biases if math.isfinite(bias))
        found.append(
            Tensors(kernel, output, tuple(sorted(shares[kernel, output])), tuple(finite), len(all_biases) - len(finite))
        )
    return tuple(found)


def _middle(ascending: tuple[float, ...]) -> float | None:
    # Interpolating between a number and infinity would give NaN.
    return ascending[len(ascending) // 2] if ascending else None
