"""What got slower between two races: the same kernels on the same cells, timed in interleaved rounds.

Clocks drift by 5 to 10 % between runs, so times of two runs are not comparable. Within one run every round times every
kernel, so what is compared is each round's time over that of a reference kernel in the same round. Rounds of one run
say nothing about how runs differ, so a cell must also move by more than runs of the same code do.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, PositiveFloat, ValidationError

from fa2verify.reports import significance

NOISE = 1.05  # ratios of medians move by up to 3 % between runs of the same code; a cell must move by more than this


class TimingsError(ValueError):
    """A file that is no race; the message says what is wrong with it."""


class Lap(BaseModel):
    """One kernel on one cell, as `fa2verify.verify.race` writes it; `ms` is device time of every round."""

    kernel: str
    direction: str
    head_dim: int
    seqlen: int
    causal: bool
    ms: tuple[PositiveFloat, ...]

    @property
    def cell(self) -> tuple[str, int, int, bool]:
        """What was timed."""
        return self.direction, self.head_dim, self.seqlen, self.causal


class Race(BaseModel):
    """All laps of one run, and where it took place."""

    environment: dict[str, str]
    laps: tuple[Lap, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """One kernel on one cell in both races.

    a, b     median of its time over the reference kernel's in the same round
    p_slower, p_faster  corrected, that B is so much slower, or faster, by chance
    """

    lap: Lap
    a: float
    b: float
    p_slower: float
    p_faster: float

    @property
    def slower(self) -> bool:
        """Whether B is slower, beyond chance and noise."""
        return self.p_slower < significance.LEVEL and self.b / self.a > NOISE

    @property
    def faster(self) -> bool:
        """Whether B is faster, beyond chance and noise."""
        return self.p_faster < significance.LEVEL and self.a / self.b > NOISE

    @property
    def name(self) -> str:
        """The cell in words."""
        mask = "causal" if self.lap.causal else "full"
        return f"{self.lap.kernel} {self.lap.direction}, head_dim {self.lap.head_dim}, {mask}, seqlen {self.lap.seqlen}"


def read(path: Path) -> Race:
    """Read a race. Raises OSError, and TimingsError for a file of another kind."""
    try:
        return Race.model_validate_json(path.read_bytes())
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, detail["loc"]))
        fault = f"{field}: {detail['msg']}" if field else detail["msg"]
        raise TimingsError(f"{path}: not what `python -m fa2verify.verify.race --json` writes: {fault}") from None


def paces(a: Race, b: Race, against: str) -> tuple[Pace, ...]:
    """Every kernel and cell that both races have, over `against`. Raises TimingsError if there is none."""
    over_a, over_b = _relative(a, against), _relative(b, against)
    both = [key for key in over_a if key in over_b and key[0] != against]
    if not both:
        known = ", ".join(dict.fromkeys(lap.kernel for race in (a, b) for lap in race.laps))
        raise TimingsError(
            f"the races share no cell with {against!r} and another kernel; they have {known or 'no lap'}"
        )
    found = [_pace(*over_a[key], over_b[key][1]) for key in both]
    corrected = significance.holm([p for pace in found for p in (pace.p_slower, pace.p_faster)])
    return tuple(
        replace(pace, p_slower=corrected[2 * number], p_faster=corrected[2 * number + 1])
        for number, pace in enumerate(found)
    )


def _pace(lap: Lap, a: list[float], b: list[float]) -> Pace:
    medians = statistics.median(a), statistics.median(b)
    return Pace(lap, *medians, significance.samples(a, b), significance.samples(b, a))


def _relative(race: Race, against: str) -> dict[tuple[str, tuple[str, int, int, bool]], tuple[Lap, list[float]]]:
    base = {lap.cell: lap.ms for lap in race.laps if lap.kernel == against}
    return {
        (lap.kernel, lap.cell): (lap, [mine / its for mine, its in zip(lap.ms, base[lap.cell], strict=False)])
        for lap in race.laps
        if lap.cell in base
    }
