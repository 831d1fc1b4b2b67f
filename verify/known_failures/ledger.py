"""The ledger of known failures: what an entry says, where it holds, and what a verdict means in its light.

A fault of somebody else's kernel that this suite has found, and that is not mended yet, must neither fail every run nor
hide behind a sentence of `unsupported` that nobody revisits. So its problems are drawn and tried like any other, and a
failure that is as the entry says is recorded as known; one that is otherwise is a failure. Each entry also carries the
smallest problem that shows it, which every run tries: when that passes, the fault is mended, and the run fails until
the entry goes. One that takes tens of GB is tried among the large problems, where only one is on a GPU at a time, and
not a second time by itself.

The entries themselves are in `fa2verify.verify.known_failures.built_in`.
"""

import importlib.metadata
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal, get_args

import torch
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from fa2verify.kernels.problem import Problem
from fa2verify.reports.record import Known, Record
from fa2verify.reports.summary import BAD

KnownVerdict = Literal["failed", "crashed", "timed_out"]
Device = Literal["cpu", "cuda"]
Capability = tuple[int, int]

STALE = "stale entry"
# Between the names of two rules in a record of a problem that fails both.
BESIDES = ", and "


class LedgerError(ValueError):
    """An entry that says nothing, or something that cannot be; the message names it and what would be right."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where kernels run, as far as entries ask.

    device      of the tensors
    capability  compute capability of the GPU, (major, minor); None on a CPU
    """

    device: str
    capability: Capability | None = None

    @classmethod
    def here(cls, device: str) -> "Place":
        """This process' place, with tensors on `device`."""
        return cls(device, torch.cuda.get_device_capability() if device == "cuda" else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFailure:
    """One entry.

    name          unique; lower case, digits and hyphens
    says          what goes wrong, a sentence for people
    link          the public issue, or the page in docs/findings
    kernels       names of the kernels that have the fault
    covers        whether a problem may show it; as narrow as can be said
    verdict       the verdict that the fault leads to
    rules         the rules that it fails; "R0 out finite", or "R0" for all that begin with this word
    packages      distribution to the versions that have the fault, for example {"torch": "==2.13.*"} (PEP 440)
    device        where it was seen; None: wherever the kernel runs
    capabilities  compute capabilities of the GPUs where it was seen; empty: any
    smallest      the smallest problem that shows it; covered, and tried in every run, or if it is a large one (values
                  "sampled") in every run that tries large problems

    Construction raises LedgerError for an entry that could never apply, or whose smallest problem it does not cover.
    """

    name: str
    says: str
    link: str
    kernels: tuple[str, ...]
    covers: Callable[[Problem], bool]
    verdict: KnownVerdict
    rules: tuple[str, ...]
    smallest: Problem
    packages: Mapping[str, str] = field(default_factory=dict)
    device: Device | None = None
    capabilities: tuple[Capability, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise LedgerError(f"entry {self.name!r}: a name is lower-case words and digits with hyphens between them")
        if not self.says.strip():
            raise self._error("says", "nothing; a sentence says what goes wrong")
        if not self.link.startswith(("https://", "docs/findings/")):
            raise self._error("link", f"{self.link!r}; it must begin with https:// or docs/findings/")
        if self.verdict not in get_args(KnownVerdict):
            raise self._error("verdict", f"{self.verdict!r}; it must be one of {', '.join(get_args(KnownVerdict))}")
        if not self.kernels or not self.rules:
            empty = "rules" if self.kernels else "kernels"
            raise self._error(empty, "none; at least one must be named")
        if self.capabilities and self.device != "cuda":
            raise self._error("capabilities", f"of GPUs, beside device {self.device!r}; that must then be 'cuda'")
        for package in self.packages:
            self._require_possible(package)
        if not self.covers(self.smallest):
            raise self._error("smallest", f"{self.smallest.to_json()}, which the entry does not cover")

    def holds(self, place: Place) -> bool:
        """Whether the fault is to be expected at `place`, with the packages that are installed."""
        if self.device is not None and place.device != self.device:
            return False
        if self.capabilities and place.capability not in self.capabilities:
            return False
        return all(_installed(package, versions) for package, versions in self.packages.items())

    def expects(self, record: Record) -> bool:
        """Whether `record`, of a problem that is covered, fails as this entry says, and in no other way besides."""
        broken = (record.rule or "").split(BESIDES)
        expected = all(any(rule == own or rule.startswith(f"{own} ") for own in self.rules) for rule in broken)
        return record.verdict == self.verdict and expected

    @property
    def takes_process(self) -> bool:
        """Whether the fault may end the process, so that its problems must be tried in another."""
        raises = all(rule.split()[0] == "raised" for rule in self.rules)
        return self.verdict == "timed_out" or (self.verdict == "crashed" and not raises)

    @property
    def is_large(self) -> bool:
        """Whether its smallest problem is too large to be judged whole, and belongs with the others that are."""
        return self.smallest.values == "sampled"

    @property
    def where(self) -> str:
        """Versions and devices in words, for example "torch ==2.13.*, cpu"."""
        capabilities = " or ".join(f"{major}.{minor}" for major, minor in self.capabilities)
        parts = [f"{package} {versions}" for package, versions in self.packages.items()]
        parts += [self.device] if self.device else []
        parts += [f"compute capability {capabilities}"] if capabilities else []
        return ", ".join(parts) or "everywhere"

    @property
    def shown(self) -> Known:
        """What a report says of the entry."""
        return Known(name=self.name, says=self.says, link=self.link, where=self.where)

    def _require_possible(self, package: str) -> None:
        versions = self.packages[package]
        try:
            wanted = SpecifierSet(versions)
        except InvalidSpecifier:
            example = '"==2.13.*" or ">=2.11,<2.14"'
            raise self._error("packages", f"{package} {versions!r}; versions are said as in {example}") from None
        if wanted.is_unsatisfiable():
            raise self._error("packages", f"{package} {versions!r}, which no version can be")
        needed = _requirement(package)
        if (wanted & needed).is_unsatisfiable():
            raise self._error("packages", f"{package} {versions!r}, which can never run: fa2verify needs {needed}")

    def _error(self, part: str, trouble: str) -> LedgerError:
        return LedgerError(f"entry {self.name!r}: {part} is {trouble}")


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries, each of a name of its own. Construction raises LedgerError for two of one name."""

    entries: tuple[KnownFailure, ...] = ()

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise LedgerError(f"entry {twice[0]!r} stands twice; a name must be unique")

    def require_kernels(self, known: Collection[str]) -> None:
        """Raise LedgerError if an entry is about a kernel whose name is not among `known`."""
        for entry in self.entries:
            for kernel in entry.kernels:
                if kernel not in known:
                    close = get_close_matches(kernel, known)
                    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                    raise LedgerError(f"entry {entry.name!r}: {kernel!r} is the name of no kernel{hint}")

    def at(self, place: Place) -> "Ledger":
        """The entries that hold there."""
        return Ledger(tuple(entry for entry in self.entries if entry.holds(place)))

    def of(self, kernel: str) -> tuple[KnownFailure, ...]:
        """The entries about one kernel."""
        return tuple(entry for entry in self.entries if kernel in entry.kernels)


def in_light_of(entries: Sequence[KnownFailure], problem: Problem, record: Record) -> Record:
    """`record` as it is to be kept: known if an entry expects it, with the name of the entry that covers the problem.

    entries  those about the record's kernel that hold here
    """
    covering = [entry for entry in entries if entry.covers(problem)]
    if not covering:
        return record
    expecting = next((entry for entry in covering if entry.expects(record)), None)
    if expecting is None:
        # It passed, or fails in another way than any entry says.
        return replace(record, known=covering[0].name)
    # Its errors are the fault's: among the errors of right results they would hide those.
    return replace(record, verdict="known", known=expecting.name, errors=())


def confirmed(entry: KnownFailure, record: Record) -> Record:
    """`record` of the entry's smallest problem as it is to be kept: known, or a failure if the entry is not true."""
    if entry.expects(record):
        return in_light_of((entry,), entry.smallest, record)
    if record.verdict in BAD:
        expected = f"entry {entry.name!r} of the ledger expects {entry.verdict}, {' or '.join(entry.rules)}"
        return replace(record, message=f"{record.message} ({expected})", known=entry.name)
    found = "it passes." if record.verdict == "passed" else f"the kernel does not take it: {' '.join(record.reasons)}"
    message = (
        f"entry {entry.name!r} of the ledger ({entry.link}) says that this problem fails, with {entry.where}; "
        f"{found} Remove the entry, or narrow its versions"
    )
    return replace(record, verdict="failed", rule=STALE, message=message, known=entry.name, errors=(), decoys={})


def _installed(package: str, versions: str) -> bool:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return SpecifierSet(versions).contains(version)


def _requirement(package: str) -> SpecifierSet:
    """The versions of `package` that fa2verify itself asks for."""
    needed = map(Requirement, importlib.metadata.requires("fa2verify") or ())
    name = canonicalize_name(package)
    return next(
        (each.specifier for each in needed if canonicalize_name(each.name) == name and "extra" not in str(each.marker)),
        SpecifierSet(),
    )
