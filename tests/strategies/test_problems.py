"""Every problem drawn is supported and within its size, whatever a kernel supports, and none is wasted."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings

from fa2verify.kernels.problem import Dense, Direction, Problem
from fa2verify.strategies.problems import NothingSupported, Size, problems

SIZE = Size(max_seqlen=512, max_scores=2**18, max_batch=6, max_heads=8)
Reasons = tuple[str, ...]


def everything(_: Problem) -> Reasons:
    return ()


def sentences(**rules: bool) -> Reasons:
    return tuple(f"no {name}" for name, broken in rules.items() if broken)


def square(problem: Problem) -> bool:
    return problem.seqlens_q == problem.seqlens_k


def tutorial(p: Problem) -> Reasons:
    """As narrow as a kernel of a tutorial: multiples of 128, four head dimensions, no feature but causal."""
    return sentences(
        bfloat16=p.dtype == "bfloat16",
        varlen=p.is_varlen,
        tails=any(length % 128 or not length for length in (*p.seqlens_q, *p.seqlens_k)),
        cross=not square(p),
        groups=p.group > 1,
        head_dim=p.head_dim not in (16, 32, 64, 128),
        top_left=p.causal == "top_left",
        window=p.window != (-1, -1),
        scores=p.scale is not None or p.softcap > 0 or p.alibi is not None,
        dropout=p.dropout > 0,
        layout=p.layout != "plain",
        deterministic=p.deterministic,
    )


def window_with_causal(p: Problem) -> Reasons:
    return sentences(lonely_window=p.window != (-1, -1) and p.causal is None)


def top_left_when_square(p: Problem) -> Reasons:
    return sentences(cross_top_left=p.causal == "top_left" and not square(p))


def no_empty(p: Problem) -> Reasons:
    return sentences(empty=0 in p.seqlens_q or 0 in p.seqlens_k)


def one_feature(p: Problem) -> Reasons:
    features = (p.window != (-1, -1), p.scale, p.softcap, p.alibi, p.dropout, p.layout != "plain", p.causal)
    return sentences(two_features=sum(map(bool, features)) > 1)


def large_bfloat16_groups(p: Problem) -> Reasons:
    return sentences(float16=p.dtype == "float16", small=p.head_dim < 128, mha=p.group == 1)


def causal_only(p: Problem) -> Reasons:
    return sentences(full=p.causal != "bottom_right", odd=p.head_dim % 8 != 0)


def backward_is_narrow(p: Problem) -> Reasons:
    narrow = p.head_dim > 64 or p.group > 1 or p.softcap > 0 or p.is_varlen or p.layout != "plain"
    return sentences(such_backward=p.backward and narrow)


def one_query(p: Problem) -> Reasons:
    return sentences(many_queries=any(length != 1 for length in p.seqlens_q))


KERNELS: list[Callable[[Problem], Reasons]] = [
    everything,
    tutorial,
    window_with_causal,
    top_left_when_square,
    no_empty,
    one_feature,
    large_bfloat16_groups,
    causal_only,
    backward_is_narrow,
    one_query,
]


def drawn(
    unsupported: Callable[[Problem], Reasons],
    *,
    varlen: bool | None = None,
    direction: Direction | None = None,
    size: Size = SIZE,
    examples: int = 200,
) -> list[Problem]:
    """What `examples` draws give; a draw that is rejected gives nothing."""
    got: list[Problem] = []

    @settings(max_examples=examples, database=None, derandomize=True, deadline=None, phases=[Phase.generate])
    @given(problems(unsupported, varlen=varlen, direction=direction, size=size))
    def collect(problem: Problem) -> None:
        got.append(problem)

    collect()
    return got


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_draw_is_supported_and_none_is_wasted(kernel: Callable[[Problem], Reasons]) -> None:
    got = drawn(kernel)
    assert len(got) == 200
    assert [kernel(problem) for problem in got if kernel(problem)] == []
    assert max(problem.scores for problem in got) <= SIZE.max_scores
    # Repair may make problems alike, but only a kernel without any freedom would leave few.
    assert len(set(got)) > 150


def test_problems_are_within_their_size() -> None:
    size = Size(max_seqlen=100, max_scores=1000, max_batch=3, max_heads=4, max_head_dim=40)
    got = drawn(everything, size=size)
    assert max(problem.scores for problem in got) <= 1000
    assert max(max(*problem.seqlens_q, *problem.seqlens_k) for problem in got) <= 100
    assert {problem.batch for problem in got} == {1, 2, 3}
    assert {problem.heads_q for problem in got} == {1, 2, 3, 4}
    assert max(problem.head_dim for problem in got) <= 40


def test_the_smallest_size_still_has_problems() -> None:
    size = Size(max_seqlen=1, max_scores=1, max_batch=1, max_heads=1, max_head_dim=1)
    got = drawn(everything, size=size, examples=50)
    assert {(problem.batch, problem.heads_q, problem.head_dim) for problem in got} == {(1, 1, 1)}


@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_only_what_was_asked_for(*, varlen: bool, direction: Direction) -> None:
    got = drawn(everything, varlen=varlen, direction=direction, examples=50)
    assert {(problem.is_varlen, problem.direction) for problem in got} == {(varlen, direction)}


def test_only_what_was_asked_for_after_a_repair() -> None:
    got = drawn(one_feature, varlen=True, direction="forward_backward", examples=100)
    assert {(problem.is_varlen, problem.direction) for problem in got} == {(True, "forward_backward")}


def test_a_feature_that_needs_another_is_still_drawn() -> None:
    got = drawn(window_with_causal)
    assert sum(problem.window != (-1, -1) for problem in got) >= 5
    assert sum(problem.window == (-1, -1) for problem in got) >= 100


def test_top_left_is_drawn_where_lengths_are_equal() -> None:
    # 49 of 600, by twelve seeds; the standard error is 7.
    got = drawn(top_left_when_square, examples=600)
    assert sum(problem.causal == "top_left" for problem in got) >= 20
    assert sum(not square(problem) for problem in got) >= 100


def test_a_repair_gives_up_no_more_than_it_must() -> None:
    got = drawn(one_feature)
    featured = [p for p in got if p.scale or p.softcap or p.alibi or p.dropout or p.causal or p.layout != "plain"]
    # Nearly all draws have one feature or more, and keep one.
    assert len(featured) > 100


def test_a_narrow_kernel_gets_all_that_it_supports() -> None:
    got = drawn(tutorial)
    assert {problem.head_dim for problem in got} == {16, 32, 64, 128}
    assert {problem.seqlens_q[0] for problem in got} == {128, 256, 384, 512}
    assert {problem.causal for problem in got} == {None, "bottom_right"}
    assert {problem.direction for problem in got} == {"forward", "forward_backward"}


def test_a_kernel_may_support_no_plain_problem_but_others() -> None:
    got = drawn(large_bfloat16_groups)
    assert min(problem.head_dim for problem in got) >= 128
    assert {problem.causal for problem in got} == {None, "bottom_right", "top_left"}


def test_nothing_supported_is_said_at_once_with_the_reasons() -> None:
    def nothing(_: Problem) -> Reasons:
        return "it is a stone", "it cannot attend"

    with pytest.raises(NothingSupported, match=r"no problem like \{.*\} is supported: it is a stone; it cannot attend"):
        problems(nothing, size=SIZE)


def test_nothing_supported_carries_the_reasons_for_what_was_asked() -> None:
    with pytest.raises(NothingSupported) as error:
        problems(tutorial, varlen=True, size=SIZE)
    assert "no varlen" in error.value.reasons

    def forward_alone(p: Problem) -> Reasons:
        return sentences(backward=p.backward)

    with pytest.raises(NothingSupported) as error:
        problems(forward_alone, direction="forward_backward", size=SIZE)
    assert error.value.reasons == ("no backward",)
    assert {problem.direction for problem in drawn(forward_alone, examples=30)} == {"forward"}


def test_a_kernel_too_large_for_the_size_is_nothing_supported() -> None:
    with pytest.raises(NothingSupported, match="no tails"):
        problems(tutorial, size=replace(SIZE, max_scores=1000))


def test_deterministic_is_drawn_with_a_backward_alone() -> None:
    got = drawn(everything)
    assert {problem.direction for problem in got if problem.deterministic} == {"forward_backward"}
    assert not any(problem.deterministic for problem in drawn(everything, direction="forward", examples=100))


def test_the_predicate_is_asked_seldom() -> None:
    asked = 0

    def counting(_: Problem) -> Reasons:
        nonlocal asked
        asked += 1
        return ()

    strategy = problems(counting, size=SIZE)
    assert asked < 2000
    asked = 0

    @settings(max_examples=100, database=None, derandomize=True, deadline=None, phases=[Phase.generate])
    @given(strategy)
    def once(_: Problem) -> None:
        pass

    once()
    # Once a draw, and never for a draw that is not used.
    assert asked == 100


def test_dense_problems_have_batches() -> None:
    batches = {p.lengths.batch for p in drawn(everything, varlen=False) if isinstance(p.lengths, Dense)}
    assert batches == {1, 2, 3, 4, 5, 6}
