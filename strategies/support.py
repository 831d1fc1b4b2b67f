"""What a kernel takes, found by asking it: its plainest problem, and the options of each axis.

Each option is asked for once, beside the plainest problem and beside each variant of it that changes one thing, since a
kernel may take a window with a causal mask alone, or `deterministic` in the backward alone. What no variant supports is
never drawn. That leaves combinations, which `fa2verify.strategies.repair` repairs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

from fa2verify.kernels.problem import Alibi, Causal, Dense, Direction, DType, Layout, Problem, Varlen
from fa2verify.kernels.values import FAMILIES, Family
from fa2verify.strategies.dropouts import PROBABILITIES
from fa2verify.strategies.dtypes import DTYPES
from fa2verify.strategies.head_dims import head_dims
from fa2verify.strategies.heads import Grouping, groupings
from fa2verify.strategies.layouts import LAYOUTS
from fa2verify.strategies.masks import CAUSALS, WINDOW_KINDS, WindowKind
from fa2verify.strategies.scores import ALIBIS, SCALES, SOFTCAPS
from fa2verify.strategies.shapes import PAIR_KINDS, PairKind, notable_lengths
from fa2verify.strategies.size import Pair, Size

Unsupported = Callable[[Problem], tuple[str, ...]]
T = TypeVar("T")

_DIRECTIONS: tuple[Direction, ...] = ("forward", "forward_backward")
# Where a plainest problem is looked for, each from the plainest.
_LENGTHS = (1, 16, 64, 128)
_HEAD_DIMS = (8, 16, 32, 64, 128, 256)
_GROUPINGS: tuple[Grouping, ...] = ((1, 1), (2, 2), (2, 1), (8, 1))


class NothingSupported(ValueError):
    """A kernel takes no problem of the kind asked for; `reasons` are its sentences about the plainest one."""

    def __init__(self, problem: Problem, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        super().__init__(f"no problem like {problem.to_json()} is supported: {'; '.join(reasons)}")


@dataclass(frozen=True, slots=True)
class Support:
    """A plainest problem that is supported, and for every axis the options that are, from the plainest.

    The options of axes that a problem usually leaves at their defaults (windows to deterministic) are without the
    default, and may be empty.
    """

    plainest: Problem
    directions: tuple[Direction, ...]
    varlen: tuple[bool, ...]
    dtypes: tuple[DType, ...]
    causals: tuple[Causal | None, ...]
    families: tuple[Family, ...]
    groupings: tuple[Grouping, ...]
    head_dims: tuple[int, ...]
    pair_kinds: tuple[PairKind, ...]
    lengths_q: tuple[int, ...]
    lengths_k: tuple[int, ...]
    scales: tuple[float, ...]
    softcaps: tuple[float, ...]
    window_kinds: tuple[WindowKind, ...]
    alibis: tuple[Alibi, ...]
    dropouts: tuple[float, ...]
    layouts: tuple[Layout, ...]
    deterministic: bool


def lengths_of(pairs: Sequence[Pair], *, varlen: bool) -> Dense | Varlen:
    """The lengths of a problem with these sequences; dense, all are like the first."""
    if varlen:
        return Varlen(seqlens_q=tuple(q for q, _ in pairs), seqlens_k=tuple(k for _, k in pairs))
    return Dense(batch=len(pairs), seqlen_q=pairs[0][0], seqlen_k=pairs[0][1])


def probe(unsupported: Unsupported, *, varlen: bool | None, direction: Direction | None, size: Size) -> Support:
    """Ask `unsupported` for each axis of problems within `size`, and with `varlen` and `direction` where given.

    Raises NothingSupported if it takes not even a plain problem.
    """
    layings: tuple[bool, ...] = (False, True) if varlen is None else (varlen,)
    directions = _DIRECTIONS if direction is None else (direction,)
    probing = _Probing(unsupported, _plainest(unsupported, layings, directions, size))
    plainest = probing.plainest
    length, heads = plainest.seqlens_q[0], plainest.heads_q
    square = {laying: lengths_of([(length, length)], varlen=laying) for laying in layings}

    # The first axes are also what the later ones are asked beside.
    directions = probing.widen(directions, lambda option: {"direction": option})
    layings = probing.widen(layings, lambda option: {"lengths": square[option]})
    dtypes = probing.widen(DTYPES, lambda option: {"dtype": option})
    causals = probing.widen(CAUSALS, lambda option: {"causal": option})
    lengths_q, lengths_k = (_lengths(probing, layings, size, side) for side in (0, 1))
    sides = {"left": (0, -1), "right": (-1, 0), "both": (0, 0)}
    return Support(
        plainest=plainest,
        directions=directions,
        varlen=layings,
        dtypes=dtypes,
        causals=causals,
        families=probing.keep(FAMILIES, lambda option: {"values": option}),
        groupings=probing.keep(groupings(size.max_heads), lambda option: {"heads_q": option[0], "heads_kv": option[1]}),
        head_dims=probing.keep(head_dims(size.max_head_dim), lambda option: {"head_dim": option}),
        pair_kinds=_pair_kinds(probing, layings, lengths_q, lengths_k),
        lengths_q=lengths_q,
        lengths_k=lengths_k,
        scales=probing.keep(SCALES, lambda option: {"scale": option}),
        softcaps=probing.keep(SOFTCAPS, lambda option: {"softcap": option}),
        window_kinds=probing.keep(WINDOW_KINDS, lambda option: {"window": sides[option]}),
        alibis=probing.keep(ALIBIS, lambda option: {"alibi": option}),
        dropouts=probing.keep(PROBABILITIES, lambda option: {"dropout": option}),
        layouts=probing.keep(
            # In one tensor, q has as many heads as k; and only packed sequences have an end that rows may lie past.
            [layout for layout in LAYOUTS if layout != "tail" or True in layings],
            lambda option: {
                "layout": option,
                **({"heads_kv": heads} if option == "qkv_packed" else {}),
                **({"lengths": square[True]} if option == "tail" else {}),
            },
        ),
        deterministic=bool(probing.keep((True,), lambda option: {"deterministic": option})),
    )


@dataclass(slots=True)
class _Probing:
    unsupported: Unsupported
    plainest: Problem
    contexts: list[Problem] = field(init=False)

    def __post_init__(self) -> None:
        self.contexts = [self.plainest]

    def takes(self, **changes: Any) -> bool:
        return any(not self.unsupported(replace(context, **changes)) for context in self.contexts)

    def keep(self, options: Iterable[T], changes: Callable[[T], dict[str, Any]]) -> tuple[T, ...]:
        """The options that are supported beside some context."""
        return tuple(option for option in options if self.takes(**changes(option)))

    def widen(self, options: Iterable[T], changes: Callable[[T], dict[str, Any]]) -> tuple[T, ...]:
        """As `keep`; each supported variant becomes a context."""
        kept = self.keep(options, changes)
        for option in kept:
            variant = replace(self.plainest, **changes(option))
            if variant not in self.contexts and not self.unsupported(variant):
                self.contexts.append(variant)
        return kept


def _plainest(
    unsupported: Unsupported, layings: tuple[bool, ...], directions: tuple[Direction, ...], size: Size
) -> Problem:
    candidates = product(
        layings,
        directions,
        CAUSALS,
        DTYPES,
        [grouping for grouping in _GROUPINGS if grouping[0] <= size.max_heads],
        [dim for dim in _HEAD_DIMS if dim <= size.max_head_dim] or [size.max_head_dim],
        [length for length in _LENGTHS if length <= size.max_seqlen],
    )
    first: tuple[Problem, tuple[str, ...]] | None = None
    for laying, direction, causal, dtype, (heads_q, heads_kv), head_dim, length in candidates:
        if heads_q * length * length > size.max_scores:
            continue
        problem = Problem(
            dtype=dtype,
            lengths=lengths_of([(length, length)], varlen=laying),
            heads_q=heads_q,
            heads_kv=heads_kv,
            head_dim=head_dim,
            causal=causal,
            direction=direction,
        )
        reasons = unsupported(problem)
        if not reasons:
            return problem
        first = first or (problem, reasons)
    assert first is not None, "Size admits one query, one key and one head"
    raise NothingSupported(*first)


def _lengths(probing: _Probing, layings: tuple[bool, ...], size: Size, side: int) -> tuple[int, ...]:
    """The lengths that are supported for queries (`side` 0) or keys (1), beside the plainest or the same, ascending.

    Where every notable length is supported, so is every length: asking for thousands would take longer than a test.
    """
    own = probing.plainest.seqlens_q[0]

    def takes(length: int) -> bool:
        return any(
            not probing.unsupported(replace(probing.plainest, lengths=lengths_of([pair], varlen=laying)))
            for laying in layings
            for pair in ((length, length), (own, length) if side else (length, own))
        )

    every = range(1, size.max_seqlen + 1)
    if all(takes(length) for length in notable_lengths(size.max_seqlen)):
        return tuple(every)
    return tuple(length for length in every if takes(length))


def _pair_kinds(
    probing: _Probing, layings: tuple[bool, ...], lengths_q: tuple[int, ...], lengths_k: tuple[int, ...]
) -> tuple[PairKind, ...]:
    own = probing.plainest.seqlens_q[0]
    other_q, other_k = (next((n for n in lengths if n != own), own) for lengths in (lengths_q, lengths_k))
    plain = (own, own)
    examples: dict[PairKind, tuple[Pair, ...]] = {
        "free": ((own, other_k), (other_q, own)),
        "square": (plain,),
        "empty_q": ((0, own),),
        "empty_k": ((own, 0),),
        "empty": ((0, 0),),
    }
    return tuple(
        kind
        for kind in PAIR_KINDS
        if any(
            probing.takes(lengths=lengths_of(batch, varlen=laying))
            for laying in layings
            for pair in examples[kind]
            for batch in ([pair], [pair, plain])
            # Dense, a batch has one pair.
            if laying or len(batch) == 1
        )
    )
