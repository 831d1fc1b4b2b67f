"""The problems behind the page's numbers, as data for the script that lists those of one cell.

Everything else on the page is aggregated. A cell of a matrix opens to its problems, so the page carries each judged
problem once, in as few characters as will do: names are numbers into lists, and the line that runs a problem again is
put together from its parts.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fa2verify.reports.failures import compact, rerun_words, specs
from fa2verify.reports.ratios import share_of_bound
from fa2verify.reports.record import Record
from fa2verify.reports.slices import choices, place
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD, counted, short

MOST = 12_000  # problems that one page carries; at about 200 characters each it stays a page that opens at once
_LONGEST = 4000  # characters of one text; this suite draws no problem of that length


@dataclass(frozen=True, slots=True)
class Listed:
    """One judged problem.

    share, ratio  the largest share of the bound and the largest ratio to PyTorch's error over its tensors; None where
                  no tensor has one
    """

    record: Record
    share: float | None
    ratio: float | None

    @property
    def bad(self) -> bool:
        """Whether it did not pass."""
        return self.record.verdict in BAD


def listed(loaded: Loaded) -> tuple[Listed, ...]:
    """Every judged problem: those that did not pass first, then by how close to the bound they came."""
    found = [
        Listed(record, _largest([share_of_bound(error) for error in record.errors]), _largest(_ratios(record)))
        for part in loaded.parts
        for record in counted(part.records)
        if record.verdict != "unsupported"
    ]
    return tuple(sorted(found, key=lambda one: (not one.bad, -(one.share or 0.0))))


def data(
    loaded: Loaded, problems: Sequence[Listed], kernels: Sequence[str], features: Sequence[str], decoys: Sequence[str]
) -> dict[str, Any]:
    """What the page's script reads, for JSON: a row a problem, in which names are numbers into the lists given.

    A row is: kernel, verdict, dtype and direction as the filters number them, features, one letter a decoy (c caught,
    m missed, t too close, - not tried), share and ratio as the page writes numbers, the problem.
    A text too long for a page is empty.
    """
    dtypes, directions = choices(loaded)
    kernel_number, feature_number = (
        {name: number for number, name in enumerate(names)} for names in (kernels, features)
    )
    rows = []
    for one in problems[:MOST]:
        record = one.record
        rows.append(
            [
                kernel_number[record.kernel],
                record.verdict,
                *place(record, dtypes, directions),
                [feature_number[feature] for feature in record.features],
                "".join(record.decoys.get(decoy, "-")[0] for decoy in decoys),
                short(one.share),
                short(one.ratio),
                _whole(compact(record.problem)),
            ]
        )
    known = specs(loaded.kernels)
    reruns = [_whole(shlex.join(rerun_words(known.get(kernel, kernel)))) for kernel in kernels]
    return {"kernels": [kernel[:_LONGEST] for kernel in kernels], "reruns": reruns, "rows": rows}


def _ratios(record: Record) -> list[float]:
    return [error.ratio for error in record.errors if error.ratio is not None]


def _largest(values: list[float]) -> float | None:
    if any(map(math.isnan, values)):
        return math.inf
    return max(values, default=None)


def _whole(text: str) -> str:
    # Half of a command is worse than none.
    return text if len(text) <= _LONGEST else ""
