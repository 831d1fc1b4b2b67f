"""Everything that defines one attention call, and nothing else: no tensor, no kernel, no device.

A problem is a value: frozen, hashable and a line of JSON, so that a failure can be sent to someone and run again. What
it means (which scores, which keys are visible, what an empty row gives) is written in `fa2verify.kernels.reference`.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fa2verify.kernels.values import Family

DType = Literal["float16", "bfloat16"]
Causal = Literal["top_left", "bottom_right"]
Alibi = Literal["per_head", "per_batch_head"]
Layout = Literal["plain", "qkv_packed", "kv_packed", "transposed", "sliced", "offset", "tail"]
Direction = Literal["forward", "forward_backward"]
# "sampled" is no family that problems are drawn from: see `fa2verify.kernels.sampled_values`.
Values = Literal[Family, "sampled"]

# Rows past the last sequence in layout "tail".
_TAIL = 5

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Length = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
WindowSide = Annotated[int, Field(ge=-1, lt=2**31)]


class ProblemError(ValueError):
    """Text that is no problem; the message names each offending field, its value and the rule."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Dense:
    """`batch` sequences of equal lengths; tensors are (batch, seqlen, heads, head_dim)."""

    batch: Count = 1
    seqlen_q: Length = 1
    seqlen_k: Length = 1


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Varlen:
    """Sequences of their own lengths, packed one after the other; tensors are (total, heads, head_dim).

    A length may be zero on either side, on its own or on both.
    """

    seqlens_q: tuple[Length, ...]
    seqlens_k: tuple[Length, ...]


def _lengths_tag(value: Any) -> str:
    names = value if isinstance(value, dict) else dir(value)
    return "varlen" if "seqlens_q" in names or "seqlens_k" in names else "dense"


Lengths = Annotated[Annotated[Dense, Tag("dense")] | Annotated[Varlen, Tag("varlen")], Discriminator(_lengths_tag)]


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Problem:
    """One attention call.

    dtype          of q, k, v, out and the gradients; lse is always fp32
    lengths        `Dense` or `Varlen`
    heads_q        query heads; a multiple of `heads_kv` (equal: MHA, one: MQA, else GQA)
    heads_kv       key and value heads; query head h reads key head h // (heads_q / heads_kv)
    head_dim       of q, k and v
    causal         None, "top_left" (flash-attn v2.0: query i sees keys j <= i) or "bottom_right" (v2.1 and later:
                   j <= i + seqlen_k - seqlen_q)
    window         (left, right) keys around the diagonal, both ends inclusive, -1 meaning unbounded
    scale          softmax scale; None means 1 / sqrt(head_dim)
    softcap        c in c * tanh(s / c); 0 means none
    alibi          slopes per head, or per batch and head; None means none
    dropout        probability of dropping an attention weight, in [0, 1)
    dropout_seed   selects the mask, see `fa2verify.kernels.dropout`
    values, seed   the family that the tensors' values are drawn from, and which draw of it; "sampled": rows of randn
                   that repeat, and a gradient of out that is 0 outside of the sample that is judged, for a problem too
                   large to be judged whole
    layout         how q, k, v (and the gradient of out) lie in memory; "tail": packed, with rows past the last sequence
    direction      forward alone, or forward and backward
    deterministic  the backward must give the same bits in every run

    Construction validates: it raises pydantic.ValidationError, a ValueError, naming field, value and rule.
    """

    dtype: DType = "float16"
    lengths: Lengths = Dense()
    heads_q: Count = 1
    heads_kv: Count = 1
    head_dim: Count = 64
    causal: Causal | None = None
    window: tuple[WindowSide, WindowSide] = (-1, -1)
    scale: float | None = None
    softcap: Annotated[float, Field(ge=0)] = 0.0
    alibi: Alibi | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dropout_seed: Seed = 0
    values: Values = "randn"
    seed: Seed = 0
    layout: Layout = "plain"
    direction: Direction = "forward"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.heads_q % self.heads_kv:
            raise ValueError(
                f"heads_q: {self.heads_q} is no multiple of heads_kv = {self.heads_kv}; "
                "every key head serves the same number of query heads"
            )
        if isinstance(self.lengths, Varlen):
            q, k = self.lengths.seqlens_q, self.lengths.seqlens_k
            if len(q) != len(k):
                raise ValueError(
                    f"lengths: seqlens_q has {len(q)} sequences and seqlens_k {len(k)}; they must be as many"
                )
            if not q:
                raise ValueError("lengths: seqlens_q is empty; a batch has at least one sequence")
        if self.layout == "tail" and not self.is_varlen:
            raise ValueError(
                "layout: 'tail' is rows past the last of packed sequences: lengths must be seqlens_q and seqlens_k, "
                f"not {self.lengths}"
            )
        if self.values == "sampled":
            self._check_sampled()
        if self.layout == "qkv_packed":
            if self.seqlens_q != self.seqlens_k:
                raise ValueError(
                    "layout: 'qkv_packed' needs seqlen_q = seqlen_k in every sequence, "
                    f"not {self.seqlens_q} and {self.seqlens_k}"
                )
            if self.heads_q != self.heads_kv:
                raise ValueError(
                    f"layout: 'qkv_packed' needs heads_q = heads_kv, not {self.heads_q} and {self.heads_kv}"
                )

    def _check_sampled(self) -> None:
        """A part of the problem must be a problem: nothing may depend on where in it a sequence or a token is."""
        if self.layout in ("transposed", "tail"):
            raise ValueError(f"values: 'sampled' needs tokens that lie one after the other, not layout {self.layout!r}")
        if self.dropout:
            raise ValueError(f"values: 'sampled' takes no dropout, not {self.dropout}: its mask is that of the whole")
        if self.alibi == "per_batch_head":
            raise ValueError("values: 'sampled' takes alibi 'per_head' or none, not 'per_batch_head'")

    @property
    def is_varlen(self) -> bool:
        """Whether sequences are packed one after the other."""
        return isinstance(self.lengths, Varlen)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.lengths.seqlens_q) if isinstance(self.lengths, Varlen) else self.lengths.batch

    @property
    def seqlens_q(self) -> tuple[int, ...]:
        """Query length of every sequence."""
        if isinstance(self.lengths, Varlen):
            return self.lengths.seqlens_q
        return (self.lengths.seqlen_q,) * self.lengths.batch

    @property
    def seqlens_k(self) -> tuple[int, ...]:
        """Key length of every sequence."""
        if isinstance(self.lengths, Varlen):
            return self.lengths.seqlens_k
        return (self.lengths.seqlen_k,) * self.lengths.batch

    @property
    def tail(self) -> int:
        """Rows of every packed tensor past its last sequence: no token, NaN in q, k, v and the gradient of out."""
        return _TAIL if self.layout == "tail" else 0

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads_q // self.heads_kv

    @property
    def softmax_scale(self) -> float:
        """The scale in force: `scale`, or 1 / sqrt(head_dim)."""
        return 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale

    @property
    def backward(self) -> bool:
        """Whether gradients are part of the call."""
        return self.direction == "forward_backward"

    @property
    def scores(self) -> int:
        """How many scores the call has: sum over sequences of heads_q * seqlen_q * seqlen_k."""
        return self.heads_q * sum(q * k for q, k in zip(self.seqlens_q, self.seqlens_k, strict=True))

    def diagonal(self, sequence: int) -> int:
        """Query index plus this is the key on its diagonal: 0 under top-left alignment, else seqlen_k - seqlen_q."""
        if self.causal == "top_left":
            return 0
        if isinstance(self.lengths, Dense):  # which may have 70,000 sequences, and is asked for each
            return self.lengths.seqlen_k - self.lengths.seqlen_q
        return self.lengths.seqlens_k[sequence] - self.lengths.seqlens_q[sequence]

    def to_json(self) -> str:
        """One line of JSON; fields at their defaults are left out."""
        return _adapter.dump_json(self, exclude_defaults=True).decode()

    def to_dict(self) -> dict[str, Any]:
        """What `to_json` writes, as plain Python values."""
        plain: dict[str, Any] = _adapter.dump_python(self, mode="json", exclude_defaults=True)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Problem":
        """Read what `to_dict` wrote. Raises ProblemError as `from_json` does."""
        return cls.from_json(json.dumps(plain))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Problem":
        """Read what `to_json` wrote. Raises ProblemError that names each offending field, its value and the rule."""
        try:
            return _adapter.validate_json(text)
        except ValidationError as error:
            raise ProblemError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    parts = []
    for detail in error.errors(include_url=False):
        field = ".".join(str(part) for part in detail["loc"] if part not in ("dense", "varlen"))
        message = detail["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {message}, not {detail['input']!r}" if field else message)
    return "; ".join(dict.fromkeys(parts))


_adapter: TypeAdapter[Problem] = TypeAdapter(Problem)
