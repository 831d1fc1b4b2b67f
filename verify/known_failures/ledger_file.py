"""A ledger of one's own, for `--ledger=FILE`: TOML, whose predicates compare a problem's fields with values.

    [[known]]
    name = "long-keys"
    says = "Keys past the first block are left out."
    link = "https://example.org/issues/7"
    kernels = ["my_attention:attention"]
    verdict = "failed"
    rules = ["R1 out"]
    packages = {torch = ">=2.11,<2.14"}
    device = "cuda"
    capabilities = ["9.0"]
    smallest = '{"lengths":{"seqlen_k":129},"head_dim":8}'

    [known.where]
    seqlen_k = "> 128"
    dtype = ["float16", "bfloat16"]

`packages`, `device` and `capabilities` may be left out; the rest is as in `KnownFailure` (the module `ledger`). Every
line of `known.where` must hold. A value is equal to the field, one of a list, or a comparison in quotes; of fields with
a value a sequence (seqlen_q, seqlen_k) some sequence's must do. A predicate that needs more is written in Python.
"""

import operator
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fa2verify.kernels.problem import Problem, ProblemError
from fa2verify.verify.known_failures.ledger import KnownFailure, LedgerError

Value = bool | int | float | str
Condition = Value | list[Value]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    # Two characters first: ">= 8" begins with ">" as well.
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
# What a condition can name; a tuple has a value a sequence.
_FIELDS: dict[str, Callable[[Problem], Any]] = {
    "alibi": attrgetter("alibi"),
    "backward": attrgetter("backward"),
    "batch": attrgetter("batch"),
    "causal": attrgetter("causal"),
    "deterministic": attrgetter("deterministic"),
    "dropout": attrgetter("dropout"),
    "dtype": attrgetter("dtype"),
    "group": attrgetter("group"),
    "head_dim": attrgetter("head_dim"),
    "heads_kv": attrgetter("heads_kv"),
    "heads_q": attrgetter("heads_q"),
    "layout": attrgetter("layout"),
    "scale": attrgetter("softmax_scale"),
    "seqlen_k": attrgetter("seqlens_k"),
    "seqlen_q": attrgetter("seqlens_q"),
    "softcap": attrgetter("softcap"),
    "values": attrgetter("values"),
    "varlen": attrgetter("is_varlen"),
    "window_left": lambda problem: problem.window[0],
    "window_right": lambda problem: problem.window[1],
}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    says: str
    link: str
    kernels: list[str]
    verdict: Literal["failed", "crashed", "timed_out"]
    rules: list[str]
    smallest: str
    where: dict[str, Condition]
    packages: dict[str, str] = {}
    device: Literal["cpu", "cuda"] | None = None
    capabilities: list[str] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    known: list[_Entry]


def read(path: Path) -> tuple[KnownFailure, ...]:
    """The entries of a ledger. Raises LedgerError naming the file, the place in it and what would be right."""
    try:
        text = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return tuple(_known_failure(entry) for entry in text.known)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise LedgerError(f"{path}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, LedgerError) as error:
        raise LedgerError(f"{path}: {error}") from None


def _known_failure(entry: _Entry) -> KnownFailure:
    try:
        smallest = Problem.from_json(entry.smallest)
    except ProblemError as error:
        raise LedgerError(f"entry {entry.name!r}: smallest is no problem: {error}") from None
    return KnownFailure(
        name=entry.name,
        says=entry.says,
        link=entry.link,
        kernels=tuple(entry.kernels),
        covers=_predicate(entry.name, entry.where),
        verdict=entry.verdict,
        rules=tuple(entry.rules),
        packages=entry.packages,
        device=entry.device,
        capabilities=tuple(_capability(entry.name, text) for text in entry.capabilities),
        smallest=smallest,
    )


def _predicate(entry: str, where: Mapping[str, Condition]) -> Callable[[Problem], bool]:
    if not where:
        raise LedgerError(f"entry {entry!r}: where is empty; an entry that covers every problem hides every failure")
    for name in where:
        if name not in _FIELDS:
            raise LedgerError(f"entry {entry!r}: where.{name} is no field; known are {', '.join(sorted(_FIELDS))}")
    tests = {name: tuple(_tests(entry, name, told)) for name, told in where.items()}

    def covers(problem: Problem) -> bool:
        return all(
            any(test(value) for test in alternatives for value in _values(problem, name))
            for name, alternatives in tests.items()
        )

    return covers


def _values(problem: Problem, name: str) -> tuple[Any, ...]:
    value = _FIELDS[name](problem)
    if isinstance(value, tuple):
        return value
    return ("none" if value is None else value,)  # TOML has no word for it


def _tests(entry: str, name: str, told: Condition) -> Iterator[Callable[[Any], bool]]:
    """Tests of a field's value, of which one must hold. Raises LedgerError."""
    place = f"entry {entry!r}: where.{name}"
    for wanted in told if isinstance(told, list) else [told]:
        sign = next((sign for sign in _COMPARISONS if isinstance(wanted, str) and wanted.startswith(sign)), None)
        if sign is None:
            yield partial(operator.eq, wanted)
            continue
        if any(isinstance(value, str) for value in _values(Problem(), name)):
            raise LedgerError(f"{place} is {wanted!r}; the field is text, which is equal or not")
        try:
            limit = float(str(wanted).removeprefix(sign))
        except ValueError:
            raise LedgerError(f"{place} is {wanted!r}; after {sign} stands a number") from None
        yield partial(_compares, _COMPARISONS[sign], limit)


def _compares(comparison: Callable[[Any, Any], bool], limit: float, value: Any) -> bool:
    return comparison(value, limit)


def _capability(entry: str, text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise LedgerError(f'entry {entry!r}: capabilities has {text!r}; one is said as in "9.0"')
    return int(major), int(minor)
