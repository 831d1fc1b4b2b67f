"""What a record's problem asks for, in the few fields that the report groups by.

A record's problem is plain JSON in which fields at their defaults are left out, and the package that knows them needs
torch. So the defaults of these few are here once more; a test holds them to the problem's own.
"""

from dataclasses import field
from typing import Any

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fa2verify.reports.record import OutputName


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore"))
class Lengths:
    """Dense (`batch` sequences of equal lengths), or packed if `seqlens_q` and `seqlens_k` are given."""

    batch: PositiveInt = 1
    seqlen_q: NonNegativeInt = 1
    seqlen_k: NonNegativeInt = 1
    seqlens_q: tuple[NonNegativeInt, ...] | None = None
    seqlens_k: tuple[NonNegativeInt, ...] | None = None


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore"))
class Call:
    """Fields of one problem; what is not named here does not matter to the report."""

    dtype: str = "float16"
    lengths: Lengths = field(default_factory=Lengths)
    heads_q: PositiveInt = 1
    heads_kv: PositiveInt = 1
    head_dim: PositiveInt = 64
    causal: str | None = None
    values: str = "randn"
    direction: str = "forward"

    def seqlens(self, output: OutputName) -> tuple[int, ...]:
        """Lengths of the sequences along which `output` lies: keys' for dk and dv, else queries'."""
        of_keys = output in ("dk", "dv")
        packed = self.lengths.seqlens_k if of_keys else self.lengths.seqlens_q
        if packed is not None:
            return packed
        return (self.lengths.seqlen_k if of_keys else self.lengths.seqlen_q,) * self.lengths.batch

    @property
    def packed(self) -> bool:
        """Whether sequences lie one after the other, without a batch dimension."""
        return self.lengths.seqlens_q is not None

    @property
    def longest(self) -> int:
        """The longest sequence, of queries or keys."""
        return max((*self.seqlens("out"), *self.seqlens("dk")), default=0)


_call: TypeAdapter[Call] = TypeAdapter(Call)


def call_of(problem: dict[str, Any]) -> Call | None:
    """The call that `problem` describes; None if it is no problem that this version knows how to read."""
    try:
        return _call.validate_python(problem)
    except ValidationError:
        return None
