"""What a race decided on this machine, a file for each pass and head_dim: later processes take the same tiles.

The files are in the folder `tiles` of `fa2verify.kernels.cache`. A name holds a digest of all that a race depends on,
so that another GPU, another triton or other kernels begin anew; to race again, delete the file.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from fa2verify.kernels.cache import cache_folder
from fa2verify.kernels.triton.configuration import Configuration, Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a race was run for.

    gpu         its name, as the driver has it
    capability  its compute capability
    triton      the version that compiled
    sources     a digest of the kernels, the table and the rules of the race
    name        the pass
    block_d     head_dim, padded
    """

    gpu: str
    capability: tuple[int, int]
    triton: str
    sources: str
    name: Pass
    block_d: int


class Damaged(ValueError):
    """A file that does not say what a race decided."""


def file_of(key: Key) -> Path:
    """Where the outcome for `key` is kept, or will be; makes the folder.

    Raises OSError if the folder cannot be made, RuntimeError if there is no home to make it in.
    """
    digest = hashlib.sha256(_json(asdict(key)).encode()).hexdigest()[:16]
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", key.gpu).strip("-")
    return cache_folder("tiles") / f"{gpu}-{key.name}-{key.block_d}-{digest}.json"


def read(file: Path, key: Key, entrants: Sequence[Configuration]) -> Configuration | None:
    """The winner that `file` names, one of `entrants`; None if there is no file.

    Raises OSError if it cannot be read, Damaged if it is not what `write` writes for `key` and `entrants`.
    """
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        said = json.loads(text)
    except ValueError as error:  # no JSON, or no UTF-8
        raise Damaged(f"{file} is no JSON ({error}); delete it to race again") from error
    if not isinstance(said, dict) or _json(said.get("key")) != _json(asdict(key)):
        raise Damaged(f"{file} is no outcome of a race for {key}; delete it to race again")
    for entrant in entrants:
        if _json(said.get("winner")) == _json(asdict(entrant)):
            return entrant
    raise Damaged(f"{file} names a winner that did not race; delete it to race again")


def write(file: Path, key: Key, winner: Configuration, samples: dict[Configuration, list[float]]) -> None:
    """Keep the winner, and the milliseconds of every round. No reader ever sees half a file.

    Raises OSError if it cannot be written.
    """
    raced = [{"configuration": asdict(config), "milliseconds": times} for config, times in samples.items()]
    whole = file.with_suffix(f".{os.getpid()}")
    whole.write_text(_json({"key": asdict(key), "winner": asdict(winner), "raced": raced}), encoding="utf-8")
    whole.replace(file)


@cache
def sources() -> str:
    """A digest of this folder's Python files: the kernels, the table, and the rules by which a race is run."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _json(value: object) -> str:
    """One text for equal values, tuples and lists alike."""
    return json.dumps(value, indent=1, sort_keys=True)
