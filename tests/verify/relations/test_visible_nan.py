"""Where the NaN is put, and what is asked of each output because of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from honest import HONEST
from hypothesis import given, settings

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.mask import visible
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.strategies.related import related_problems
from fa2verify.strategies.size import Size
from fa2verify.verify.judgement.judge import Breach
from fa2verify.verify.judgement.truth import Truth
from fa2verify.verify.relations.relation import Call
from fa2verify.verify.relations.visible_nan import ROLES, Place, visible_nan

CPU = torch.device("cpu")
SIZE = Size(max_seqlen=40, max_scores=2**10, max_batch=3, max_heads=4, max_head_dim=40)
# Bottom-right: query 0 sees keys 0 to 2, query 1 key 3 too.
DENSE = Problem(
    lengths=Dense(batch=2, seqlen_q=2, seqlen_k=4), heads_q=4, heads_kv=2, head_dim=8, causal="bottom_right"
)
PACKED = replace(DENSE, lengths=Varlen(seqlens_q=(0, 2), seqlens_k=(3, 4)))
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]


def asked(kernel: Kernel, problem: Problem) -> Breach | None:
    tensors = make_tensors(problem)
    return visible_nan(Call.of(kernel, problem, tensors, kernel(problem, tensors), Truth.of(problem, tensors)))


@settings(max_examples=100, database=None, derandomize=True, deadline=None)
@given(problem=related_problems(lambda _: (), size=SIZE))
def test_a_place_is_seen(problem: Problem) -> None:
    lengths = [*zip(problem.seqlens_q, problem.seqlens_k, strict=True)]
    masks = [visible(problem, q, k, CPU) for q, k in lengths]
    place = Place.of(problem)
    if place is None:
        assert not any(bool(mask.any()) for mask in masks)
        return
    assert place.role == ROLES[problem.seed % 3]
    mask = masks[place.sequence]
    if place.role == "q":
        assert place.seen_by.nonzero().flatten().tolist() == [place.token]
        assert bool(mask[place.token].any())
    else:
        assert torch.equal(place.seen_by, mask[:, place.token])
        assert bool(place.seen_by.any())
    tensor = getattr(make_tensors(problem), place.role)
    side = problem.seqlens_q if place.role == "q" else problem.seqlens_k
    heads = problem.heads_q if place.role == "q" else problem.heads_kv
    index = place.index(problem)
    start = sum(side[: place.sequence]) if problem.is_varlen else 0
    lead = (start + place.token,) if problem.is_varlen else (place.sequence, place.token)
    assert index == (*lead, place.head, place.column)
    assert place.head < heads
    assert not bool(tensor[index].isnan()), "an element that the kernel is to read"


def test_places_differ() -> None:
    """Each of two sequences, 2 or 4 tokens, 2 or 4 heads and 8 columns is met by some of 100 seeds of each role."""
    found = [Place.of(replace(DENSE, seed=seed)) for seed in range(300)]
    for role in ROLES:
        places = [place for place in found if place is not None and place.role == role]
        assert {place.sequence for place in places} == {0, 1}
        assert {place.token for place in places} == set(range(2 if role == "q" else 4))
        assert {place.head for place in places} == set(range(4 if role == "q" else 2))
        assert {place.column for place in places} == set(range(8))


@pytest.mark.parametrize("kernel", HONEST, ids=lambda kernel: kernel.name)
def test_correct_kernels_pass(kernel: Kernel) -> None:
    @settings(max_examples=30, database=None, derandomize=True, deadline=None)
    @given(problem=related_problems(kernel.unsupported, size=SIZE))
    def passes(problem: Problem) -> None:
        assert asked(kernel, problem) is None

    passes()


@pytest.mark.parametrize("problem", [DENSE, PACKED], ids=["dense", "packed"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["out", "lse"])
def test_every_element_is_asked_for(made: Make, right: Right, problem: Problem, role: str, name: str) -> None:
    """Each element in turn is made finite where it was not, or NaN where it was finite."""
    problem = replace(problem, seed=next(seed for seed in range(3, 6) if ROLES[seed % 3] == role))
    place = Place.of(problem)
    assert place is not None
    change: list[tuple[int, ...]] = []
    calls = 0

    def call(of: Problem, tensors: Tensors) -> Outputs:
        nonlocal calls
        outputs, calls = right(of, tensors), calls + 1
        if calls % 2 == 0 and change:
            element = getattr(outputs, name)[change[-1]]
            element.fill_(0.0 if bool(element.isnan()) else float("nan"))
        return outputs

    kernel = made(call)
    assert asked(kernel, problem) is None
    shape = getattr(right(problem, make_tensors(problem)), name).shape
    told = set()
    for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        change.append(tuple(index))
        breach = asked(kernel, problem)
        if breach is not None:
            assert breach[0] == f"R4 visible NaN {name}"
            assert breach[1].startswith(f"{name}{index} is ")
            told.add(tuple(index))
    assert told == set(expected(problem, place, name, shape))


def expected(problem: Problem, place: Place, name: str, shape: Any) -> list[tuple[int, ...]]:
    """The elements of which something is asked: those of its sequence and heads that are not left open."""
    found = []
    offset = sum(problem.seqlens_q[: place.sequence]) if problem.is_varlen else 0
    for index in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        rest = index if problem.is_varlen else index[1:]
        (head, row), column = (rest[:2], None) if name == "lse" else ((rest[1], rest[0]), rest[2])
        sequence = place.sequence if problem.is_varlen else index[0]
        row -= offset
        own = head == place.head if place.role == "q" else head // problem.group == place.head
        if sequence != place.sequence or not 0 <= row < problem.seqlens_q[sequence] or not own:
            continue
        seen = bool(place.seen_by[row])
        left_open = {"q": False, "k": not seen, "v": column == place.column and not seen}[place.role]
        if not left_open:
            found.append(tuple(index))
    return found


def test_a_row_may_be_nan_where_a_mask_is_added_and_lse_infinite(made: Make, right: Right) -> None:
    problem = replace(DENSE, seed=next(seed for seed in range(1, 300, 3) if _last_key(replace(DENSE, seed=seed))))
    place = Place.of(problem)
    assert place is not None
    assert place.seen_by.tolist() == [False, True]
    calls = 0

    def call(of: Problem, tensors: Tensors) -> Outputs:
        nonlocal calls
        outputs, calls = right(of, tensors), calls + 1
        assert outputs.lse is not None
        if calls == 2:
            outputs.out[place.sequence] = float("nan")
            outputs.lse[outputs.lse.isnan()] = float("inf")
        return outputs

    assert asked(made(call), problem) is None


def _last_key(problem: Problem) -> bool:
    place = Place.of(problem)
    return place is not None and place.token == 3


def test_dropout_and_what_a_kernel_does_not_take_are_left_out(made: Make, right: Right) -> None:
    calls = []

    def call(of: Problem, tensors: Tensors) -> Outputs:
        calls.append(of)
        return right(of, tensors)

    kernel = made(call)
    kernel.unsupported = lambda p: () if p.backward else ("It has gradients.",)  # type: ignore[method-assign]
    assert asked(made(call), replace(DENSE, dropout=0.5)) is None
    assert asked(kernel, replace(DENSE, direction="forward_backward")) is None
    assert len(calls) == 2, "only the first calls"
