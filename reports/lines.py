"""A file of JSON lines as a process that may have died left it: the lines that can be read, a sentence for each other.

Verdicts and benchmarks are both kept in such files, and whoever reads a report must be told of both what is missing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

T = TypeVar("T")


def parsed(path: Path, parse: Callable[[bytes], T], otherwise: str, losses: list[str]) -> Iterator[tuple[int, T]]:
    """Each line that `parse` takes, after its number from 1; blank lines are none. Raises OSError.

    parse      raises pydantic.ValidationError for a line that is not what it reads
    otherwise  how the sentence about such a line begins, before what is wrong with it
    losses     where the sentences go
    """
    # Split at b"\n" alone: JSON leaves U+2028 and its like in strings, at which str.splitlines would break a line.
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = parse(text)
            except ValidationError as error:
                whole = text.endswith(b"\n")
                reason = f"{otherwise}{fault_of(error)}" if whole else "cut off, its process ended while writing it"
                losses.append(loss(path, reason, number))
                continue
            yield number, line


def loss(path: Path, reason: str, number: int | None = None) -> str:
    """The sentence about what is lost of a file, or of one of its lines."""
    place = path.name if number is None else f"{path.name}, line {number}"
    return f"{place}: {reason} (in {path.parent})"


def fault_of(error: ValidationError) -> str:
    """The first fault that was found: the field, if it is one's, and the rule."""
    detail = error.errors(include_url=False, include_input=False)[0]
    field_name = ".".join(str(part) for part in detail["loc"])
    return f"{field_name}: {detail['msg']}" if field_name else str(detail["msg"])
