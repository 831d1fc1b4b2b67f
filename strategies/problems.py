"""Problems that a kernel supports: every axis together.

A kernel supports some options and some combinations. Options that it never takes are not drawn
(`fa2verify.strategies.support`); a combination that it does not take is repaired by giving features up, as few as
possible (`fa2verify.strategies.repair`). Both beat rejecting draws: Hypothesis gives up on a strategy that rejects most
of them, and a kernel with few features would be verified on few problems. Nothing is ever rejected.

Usually zero to three features are drawn at a time: with all of them at once, one failing feature hides the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fa2verify.kernels.problem import Direction, Problem
from fa2verify.strategies.batches import batches, uniform_batches
from fa2verify.strategies.choice import choice
from fa2verify.strategies.dropouts import dropouts
from fa2verify.strategies.dtypes import dtypes
from fa2verify.strategies.families import families, seeds
from fa2verify.strategies.head_dims import drawn_head_dims
from fa2verify.strategies.heads import heads
from fa2verify.strategies.layouts import layouts
from fa2verify.strategies.masks import causals, windows
from fa2verify.strategies.repair import Repair
from fa2verify.strategies.scores import alibis, scales, softcaps
from fa2verify.strategies.shapes import lengths, pairs
from fa2verify.strategies.size import Pair, Size
from fa2verify.strategies.support import NothingSupported, Support, Unsupported, probe

__all__ = ["NothingSupported", "Size", "problems"]

_MAX_FEATURES = 3


def problems(
    unsupported: Unsupported, *, varlen: bool | None = None, direction: Direction | None = None, size: Size
) -> SearchStrategy[Problem]:
    """Problems within `size` for which `unsupported` gives no reason.

    unsupported  a kernel's predicate: the reasons why it does not take a problem, empty if it does
    varlen       only varlen problems, only dense ones, or both
    direction    only this direction, or both

    Shrinks towards the plainest problem that is supported: forward, dense, no feature, float16, randn, one head, the
    smallest head_dim that is a multiple of 8, seed 0, one sequence with one key and one query. Lengths shrink towards
    1, not 0: an empty sequence stays only where it is what fails. Features go before lengths.

    Raises NothingSupported at once if not even a plain problem is supported, with the kernel's reasons.
    """
    support = probe(unsupported, varlen=varlen, direction=direction, size=size)
    drawn = _problems(_Axes.of(support, size), Repair.of(unsupported, support, size))
    # A list of one, because Hypothesis (from 6.170.1) does not mutate inside a list of unique elements: else five in
    # six problems would be copies of the one before with two of its choices made equal, few with other features.
    return st.lists(drawn, min_size=1, max_size=1, unique=True).map(lambda problems: problems[0])


@dataclass(frozen=True, slots=True)
class _Axes:
    always: Mapping[str, SearchStrategy[Mapping[str, Any]]]
    features: SearchStrategy[list[tuple[str, Mapping[str, Any]]]]
    varlen: SearchStrategy[bool]
    batch: SearchStrategy[tuple[Pair, ...]]
    uniform: SearchStrategy[tuple[Pair, ...]]

    @classmethod
    def of(cls, support: Support, size: Size) -> "_Axes":
        """The strategies of every axis, each over what is supported."""
        pair = pairs(size.max_seqlen, support.pair_kinds, supported_q=support.lengths_q, supported_k=support.lengths_k)
        always: dict[str, SearchStrategy[Mapping[str, Any]]] = {
            "direction": choice(support.directions, "direction").map(lambda value: {"direction": value}),
            "causal": causals(support.causals).map(lambda value: {"causal": value}),
            "dtype": dtypes(support.dtypes).map(lambda value: {"dtype": value}),
            "values": families(support.families).map(lambda value: {"values": value}),
            "heads": heads(support.groupings).map(lambda value: {"heads_q": value[0], "heads_kv": value[1]}),
            "head_dim": drawn_head_dims(support.head_dims).map(lambda value: {"head_dim": value}),
            "seed": seeds().map(lambda value: {"seed": value}),
        }
        features = [st.tuples(st.just(name), strategy) for name, strategy in _features(support, size)]
        return cls(
            always=always,
            features=st.lists(st.one_of(features), max_size=_MAX_FEATURES) if features else st.just([]),
            varlen=choice(support.varlen, "varlen"),
            batch=batches(pair, size.max_batch, support.lengths_q, support.lengths_k),
            uniform=uniform_batches(pair, size.max_batch),
        )


def _features(support: Support, size: Size) -> Iterator[tuple[str, SearchStrategy[Mapping[str, Any]]]]:
    """The axes that a problem usually leaves alone, each with its strategy, those without an option left out."""
    if support.scales:
        yield "scale", scales(support.scales).map(lambda value: {"scale": value})
    if support.window_kinds:
        yield "window", windows(lengths(size.max_seqlen), support.window_kinds).map(lambda value: {"window": value})
    if support.layouts:
        yield "layout", layouts(support.layouts).map(lambda value: {"layout": value})
    if support.softcaps:
        yield "softcap", softcaps(support.softcaps).map(lambda value: {"softcap": value})
    if support.alibis:
        yield "alibi", alibis(support.alibis).map(lambda value: {"alibi": value})
    if support.dropouts:
        yield "dropout", dropouts(support.dropouts).map(lambda value: {"dropout": value[0], "dropout_seed": value[1]})
    if support.deterministic:
        yield "deterministic", st.just({"deterministic": True})


@st.composite
def _problems(draw: DrawFn, axes: _Axes, repair: Repair) -> Problem:
    # In the order of what is to become plain first: Hypothesis prefers the smaller earlier choice.
    features = dict(draw(axes.features))
    varlen = draw(axes.varlen)
    changes = {**features, **{name: draw(strategy) for name, strategy in axes.always.items()}}
    return repair(changes, draw(axes.batch if varlen else axes.uniform), varlen=varlen)
