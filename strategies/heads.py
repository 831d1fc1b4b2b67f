"""How many query heads share how many key heads: MHA, GQA, MQA."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fa2verify.strategies.choice import choice

Grouping = tuple[int, int]  # (heads_q, heads_kv)

# Query heads per key head that models have, and three, which is no power of two.
COMMON_GROUPS = (2, 3, 4, 8)
# How much more often those come that may have several key heads.
_SEVERAL = 6


def groupings(limit: int) -> tuple[Grouping, ...]:
    """Every (heads_q, heads_kv) with at most `limit` query heads, from the plainest: fewest heads first, MHA first."""
    return tuple(
        (heads_q, heads_kv)
        for heads_q in range(1, limit + 1)
        for heads_kv in range(heads_q, 0, -1)
        if heads_q % heads_kv == 0
    )


def heads(supported: Sequence[Grouping]) -> SearchStrategy[Grouping]:
    """One of `supported`; more than half of all draws have the first's group, which is one for MHA.

    Of the other groups those that may have several key heads come more often, and mostly have them: a head of a wrong
    group shows only there, and where lengths leave little room for heads they become one key head.

    The group is drawn first, then the key heads, each shrinking towards the first of `supported` that has it: a failure
    for groups of three ends at (3, 1), however many key heads it was found with. Raises ValueError if there is none.
    """
    if not supported:
        raise ValueError("supported: no grouping of heads to draw; at least one is needed")
    of_group: dict[int, list[Grouping]] = {}
    for grouping in supported:
        of_group.setdefault(grouping[0] // grouping[1], []).append(grouping)
    common = [group for group in COMMON_GROUPS if group in of_group]
    several = [group for group in common if len(of_group[group]) > 1]
    groups = [*of_group, *common * 2, *several * _SEVERAL]
    first = next(iter(of_group))
    # The first twice: of a single option Hypothesis makes no choice, and with a choice less a group cannot shrink.
    options = {group: [groupings[0], *groupings] for group, groupings in of_group.items()}
    for group in several:
        options[group] += of_group[group][1:] * 4
    return _heads(
        st.sampled_from([*[first] * len(groups), *groups]),
        {group: choice(groupings, "heads") for group, groupings in options.items()},
    )


@st.composite
def _heads(draw: DrawFn, groups: SearchStrategy[int], groupings: Mapping[int, SearchStrategy[Grouping]]) -> Grouping:
    return draw(groupings[draw(groups)])
