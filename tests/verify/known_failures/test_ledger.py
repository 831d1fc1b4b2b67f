"""Entries of the ledger: what they may say, where they hold, and what becomes of a verdict in their light."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fa2verify.kernels.problem import Dense, Problem
from fa2verify.reports.record import Record
from fa2verify.verify.known_failures.ledger import (
    STALE,
    KnownFailure,
    Ledger,
    LedgerError,
    Place,
    confirmed,
    in_light_of,
)

LONG = Problem(lengths=Dense(seqlen_k=9), head_dim=8)
SHORT = Problem(lengths=Dense(seqlen_k=3), head_dim=8)
CPU = Place("cpu")
HOPPER = Place("cuda", (9, 0))

Entry = Callable[..., KnownFailure]


@pytest.fixture
def entry() -> Entry:
    def make(**changes: Any) -> KnownFailure:
        plain: dict[str, Any] = {
            "name": "long-keys",
            "says": "Keys past the eighth are left out.",
            "link": "https://example.org/issues/1",
            "kernels": ("made",),
            "covers": lambda problem: max(problem.seqlens_k) > 8,
            "verdict": "failed",
            "rules": ("R1 out", "R2"),
            "smallest": LONG,
        }
        return KnownFailure(**{**plain, **changes})

    return make


def record(verdict: Any = "failed", rule: str | None = "R1 out", problem: Problem = LONG) -> Record:
    fields = {"kernel": "made", "problem": problem.to_dict(), "features": ("forward",), "message": "It is off."}
    return Record(verdict=verdict, rule=rule, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Long keys"}, "entry 'Long keys': a name is lower-case words and digits with hyphens between them"),
        ({"says": " "}, "says is nothing; a sentence says what goes wrong"),
        ({"link": "issue 895"}, "link is 'issue 895'; it must begin with https:// or docs/findings/"),
        ({"verdict": "passed"}, "verdict is 'passed'; it must be one of failed, crashed, timed_out"),
        ({"kernels": ()}, "kernels is none; at least one must be named"),
        ({"rules": ()}, "rules is none; at least one must be named"),
        ({"capabilities": ((9, 0),)}, "capabilities is of GPUs, beside device None; that must then be 'cuda'"),
        ({"packages": {"torch": "2.13"}}, "packages is torch '2.13'; versions are said as in "),
        ({"packages": {"torch": ">=2.14,<2.13"}}, "packages is torch '>=2.14,<2.13', which no version can be"),
        ({"packages": {"torch": "<2.11"}}, "which can never run: fa2verify needs >=2.11"),
        ({"smallest": SHORT}, '"seqlen_k":3},"head_dim":8}, which the entry does not cover'),
    ],
)
def test_an_entry_that_cannot_be(entry: Entry, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError) as caught:
        entry(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("entry '")


def test_a_ledger_names_its_entries_apart_and_kernels_that_there_are(entry: Entry) -> None:
    with pytest.raises(LedgerError, match=r"^entry 'long-keys' stands twice; a name must be unique$"):
        Ledger((entry(), entry(rules=("R0",))))
    ledger = Ledger((entry(kernels=("made", "torch-mat")),))
    ledger.require_kernels({"made", "torch-mat"})
    with pytest.raises(LedgerError) as caught:
        ledger.require_kernels({"made", "torch-math"})
    assert str(caught.value) == ("entry 'long-keys': 'torch-mat' is the name of no kernel; did you mean 'torch-math'?")


@pytest.mark.parametrize(
    ("changes", "here", "there"),
    [
        ({}, True, True),
        ({"device": "cpu"}, True, False),
        ({"device": "cuda"}, False, True),
        ({"device": "cuda", "capabilities": ((8, 0), (9, 0))}, False, True),
        ({"device": "cuda", "capabilities": ((8, 0),)}, False, False),
        ({"packages": {"torch": ">=2.11"}}, True, True),
        ({"packages": {"torch": ">=999"}}, False, False),
        ({"packages": {"hypothesis": ">=6", "no-such-package": ">=1"}}, False, False),
    ],
)
def test_where_an_entry_holds(entry: Entry, changes: dict[str, Any], here: bool, there: bool) -> None:
    one = entry(**changes)
    assert (one.holds(CPU), one.holds(HOPPER)) == (here, there)
    assert Ledger((one,)).at(CPU).of("made") == ((one,) if here else ())
    assert Ledger((one,)).of("other") == ()


def test_a_local_version_is_of_its_release(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels of torch are 2.13.0+cpu, and nightlies come before their release."""
    for version, holds in (("2.13.0+cpu", True), ("2.13.1", True), ("2.13.0.dev20260101+cu130", True), ("2.14", False)):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert entry(packages={"torch": "==2.13.*"}).holds(CPU) == holds, version


def test_this_process_is_a_place() -> None:
    assert Place.here("cpu") == CPU
    if torch.cuda.is_available():
        assert Place.here("cuda").capability is not None


@pytest.mark.parametrize(
    ("verdict", "rule", "expected"),
    [
        ("failed", "R1 out", True),
        ("failed", "R2 dv", True),
        ("failed", "R1 dv", False),
        ("failed", "R2x", False),
        ("failed", None, False),
        ("crashed", "R1 out", False),
        ("passed", None, False),
        ("failed", "R1 out, and R2 dv", True),
        ("failed", "R1 out, and R1 dv", False),
        ("failed", "R1 dv, and R1 out", False),
    ],
)
def test_what_an_entry_expects(entry: Entry, verdict: str, rule: str | None, expected: bool) -> None:
    assert entry().expects(record(verdict, rule)) == expected


@pytest.mark.parametrize(
    ("verdict", "rules", "takes"),
    [
        ("failed", ("R0",), False),
        ("crashed", ("raised RuntimeError",), False),
        ("crashed", ("raised RuntimeError", "process died"), True),
        ("crashed", ("CUDA context lost",), True),
        ("timed_out", ("timeout",), True),
    ],
)
def test_faults_that_end_the_process(entry: Entry, verdict: str, rules: tuple[str, ...], takes: bool) -> None:
    assert entry(verdict=verdict, rules=rules).takes_process == takes


def test_verdicts_in_the_light_of_the_ledger(entry: Entry) -> None:
    entries = (entry(), entry(name="other", verdict="crashed", rules=("process died",)))
    assert in_light_of(entries, SHORT, record(problem=SHORT)) == record(problem=SHORT)
    known = in_light_of(entries, LONG, record())
    assert known == replace(record(), verdict="known", known="long-keys")
    crashed = in_light_of(entries, LONG, record("crashed", "process died"))
    assert (crashed.verdict, crashed.known) == ("known", "other")
    for verdict, rule in (("passed", None), ("failed", "R0 out finite")):
        assert in_light_of(entries, LONG, record(verdict, rule)) == replace(record(verdict, rule), known="long-keys")


def test_the_smallest_problem_confirms_its_entry_or_fails(entry: Entry) -> None:
    one = entry(packages={"torch": ">=2.11"})
    assert confirmed(one, record()).verdict == "known"

    mended = confirmed(one, record("passed", None))
    assert (mended.verdict, mended.rule, mended.known) == ("failed", STALE, "long-keys")
    assert mended.message == (
        "entry 'long-keys' of the ledger (https://example.org/issues/1) says that this problem fails, "
        "with torch >=2.11; it passes. Remove the entry, or narrow its versions"
    )
    refused = confirmed(one, replace(record("unsupported", None), reasons=("Not so long.",)))
    assert (refused.verdict, refused.rule) == ("failed", STALE)
    assert "; the kernel does not take it: Not so long. Remove" in refused.message

    other = confirmed(one, record("crashed", "raised ValueError"))
    assert (other.verdict, other.rule) == ("crashed", "raised ValueError")
    assert other.message == "It is off. (entry 'long-keys' of the ledger expects failed, R1 out or R2)"


def test_versions_in_words(entry: Entry) -> None:
    where = {"packages": {"torch": "==2.11.*"}, "device": "cuda", "capabilities": ((8, 0), (9, 0))}
    assert entry(**where).where == "torch ==2.11.*, cuda, compute capability 8.0 or 9.0"
    assert entry().where == "everywhere"
    assert (entry().shown.name, entry().shown.link) == ("long-keys", "https://example.org/issues/1")
