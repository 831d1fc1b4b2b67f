"""The parts of a run that the report's filters select: one for each dtype and direction, and each of "all".

The page holds what it says about every part, and the filters only choose which is shown, so they work without a script
and what they show is computed, and tested, in one place.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

from fa2verify.reports.call import Call, call_of
from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted

_MOST = 4  # values of one filter; a page for every dtype that a strange file names would have no end
_LABELS = {"forward_backward": "forward + backward"}
_ORDER = ("float16", "bfloat16", "forward", "forward_backward")  # others after these


@dataclass(frozen=True, slots=True)
class Choice:
    """What one filter offers: `values` as problems spell them; none if there is nothing to choose."""

    name: str
    values: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """For a person, in the order of the page's numbering: "all" is 0, `values[0]` is 1."""
        return ("all", *(_LABELS.get(value, value) for value in self.values))

    def number(self, value: str) -> int:
        """The number of `value` on the page, 0 if the filter does not offer it."""
        return self.values.index(value) + 1 if value in self.values else 0


@dataclass(frozen=True, slots=True)
class Slice:
    """The records that one setting of the filters leaves.

    dtype, direction  numbers of the filters' values, 0 for all
    label             the setting in words
    loaded            every run, with these records alone; shrunk ones that tell a drawn one again are left out
    """

    dtype: int
    direction: int
    label: str
    loaded: Loaded


def choices(loaded: Loaded) -> tuple[Choice, Choice]:
    """What the filters for dtype and direction offer."""
    calls = [call for record in loaded.records if (call := call_of(record.problem))]
    return _choice("dtype", [call.dtype for call in calls]), _choice("direction", [call.direction for call in calls])


def slices(loaded: Loaded) -> tuple[Slice, ...]:
    """One slice for each setting of the filters, the whole run first."""
    dtypes, directions = choices(loaded)
    parts = [(part, [(record, call_of(record.problem)) for record in counted(part.records)]) for part in loaded.parts]

    def of(keep: Callable[[Call | None], bool]) -> Loaded:
        kept = (
            replace(part, records=tuple(record for record, call in records if keep(call))) for part, records in parts
        )
        return replace(loaded, parts=tuple(kept))

    found = []
    for dtype, direction in product(range(len(dtypes.labels)), range(len(directions.labels))):

        def keep(call: Call | None, dtype: int = dtype, direction: int = direction) -> bool:
            if call is None:
                return not dtype and not direction
            return dtype in (0, dtypes.number(call.dtype)) and direction in (0, directions.number(call.direction))

        words = [
            labels[number] for labels, number in ((dtypes.labels, dtype), (directions.labels, direction)) if number
        ]
        found.append(Slice(dtype, direction, ", ".join(words) or "all", of(keep)))
    return tuple(found)


def place(record: Record, dtypes: Choice, directions: Choice) -> tuple[int, int]:
    """Which values of the filters a record has; 0 where it has none of them."""
    call = call_of(record.problem)
    return (dtypes.number(call.dtype), directions.number(call.direction)) if call else (0, 0)


def _choice(name: str, values: list[str]) -> Choice:
    common = sorted(value for value, _ in Counter(values).most_common(_MOST))
    common.sort(key=lambda value: _ORDER.index(value) if value in _ORDER else len(_ORDER))
    return Choice(name, tuple(common) if len(common) > 1 else ())
