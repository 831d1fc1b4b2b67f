import json
from pathlib import Path

import pytest

from fa2verify.reports.timings import Lap, Race, TimingsError, paces, read

REAL = Path(__file__).parents[2] / "docs" / "results" / "h200-2026-11-20" / "race.json"


def race(**ms: tuple[float, ...]) -> Race:
    laps = (
        Lap(kernel=kernel, direction="forward", head_dim=64, seqlen=4096, causal=True, ms=times)
        for kernel, times in ms.items()
    )
    return Race(environment={}, laps=tuple(laps))


STEADY = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07)


def times(factor: float) -> tuple[float, ...]:
    return tuple(factor * one for one in STEADY)


@pytest.mark.parametrize(
    ("drift", "change", "slower", "faster"),
    [(1.0, 1.2, True, False), (1.3, 1.0, False, False), (1.0, 1.04, False, False), (0.8, 0.7, False, True)],
)
def test_only_what_the_clock_does_not_explain(drift: float, change: float, slower: bool, faster: bool) -> None:
    a = race(base=STEADY, ours=times(2.0))
    b = race(base=times(drift), ours=times(2.0 * drift * change))
    (pace,) = paces(a, b, "base")
    assert (pace.slower, pace.faster) == (slower, faster)
    assert (pace.a, pace.b) == pytest.approx((2.0, 2.0 * change))
    assert pace.name == "ours forward, head_dim 64, causal, seqlen 4096"


def test_rounds_that_overlap_are_noise() -> None:
    a, b = (1.0, 1.5, 1.1, 1.4, 1.2, 1.3), (1.1, 1.6, 1.2, 1.5, 1.3, 1.4)
    (pace,) = paces(race(base=(1.0,) * 6, ours=a), race(base=(1.0,) * 6, ours=b), "base")
    assert pace.b / pace.a > 1.05
    assert not pace.slower


def test_a_real_race_against_itself() -> None:
    real = read(REAL)
    found = paces(real, real, "torch-flash")
    assert len(found) == len(real.laps) - sum(lap.kernel == "torch-flash" for lap in real.laps)
    assert not any(pace.slower or pace.faster for pace in found)


def test_races_without_the_reference_kernel() -> None:
    with pytest.raises(TimingsError, match="share no cell with 'flash' and another kernel; they have base, ours"):
        paces(race(base=STEADY, ours=STEADY), race(base=STEADY), "flash")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        (json.dumps({"environment": {}, "laps": [{}]}), "laps.0.kernel"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "race.json"
    path.write_text(content)
    with pytest.raises(TimingsError, match=fault):
        read(path)
