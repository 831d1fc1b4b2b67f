"""The entries of the built-in ledger: true to their pages, and predicates that are neither too narrow nor too wide."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.kernels.mask import visible
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.registry import builtin
from fa2verify.verify.isolation import Isolation
from fa2verify.verify.known_failures import LEDGER, few_keys, many_gradient_sums, window_past_every_key
from fa2verify.verify.ledger import KnownFailure, Place, confirmed
from fa2verify.verify.plan import KnownCase, known_cases, left_out
from fa2verify.verify.relations import RELATIONS
from fa2verify.verify.trial import Bench, attempt

CHECKOUT = Path(__file__).parents[2]
CPU = torch.device("cpu")
HERE = [
    case
    for registered in builtin()
    if not left_out(registered, CPU, named=False)
    for case in known_cases(registered, LEDGER.at(Place("cpu")))
]


def test_every_entry_is_about_kernels_that_there_are() -> None:
    LEDGER.require_kernels({registered.kernel.name for registered in builtin()})


@pytest.mark.parametrize("entry", LEDGER.entries, ids=lambda entry: entry.name)
def test_an_entry_holds_for_what_was_seen_and_is_written_up(entry: KnownFailure) -> None:
    assert entry.packages, "without versions nobody knows where it was seen"
    assert entry.device is not None
    if entry.link.startswith("docs/"):
        assert (CHECKOUT / entry.link).is_file()
    index = (CHECKOUT / "docs" / "findings" / "README.md").read_text()
    assert entry.name in index, "the ledger's page names every entry"


@pytest.mark.parametrize("entry", LEDGER.entries, ids=lambda entry: entry.name)
def test_its_kernels_take_its_smallest_problem(entry: KnownFailure) -> None:
    for registered in builtin():
        if registered.kernel.name in entry.kernels:
            assert registered.kernel.unsupported(entry.smallest) == ()


@pytest.mark.parametrize("case", HERE, ids=lambda case: case.label)
def test_entries_for_this_torch_on_a_cpu_are_true(case: KnownCase) -> None:
    if case.entry.takes_process:
        record = Isolation((), "cpu", "fp64", 120.0).attempt(case.registered.kernel, case.entry.smallest)
    else:
        record = attempt(case.registered.kernel, case.entry.smallest, Bench(CPU, relations=RELATIONS))
    record = confirmed(case.entry, record)
    assert record.verdict == "known", record.message


LENGTH = st.integers(0, 7)


@given(
    st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=3),
    st.tuples(st.integers(-1, 9), st.integers(-1, 9)),
)
def test_the_windows_that_flash_attn_misplaces(pairs: list[tuple[int, int]], window: tuple[int, int]) -> None:
    """What its host code does, in three lines: it is the known failure where, and only where, the mask is another."""
    seqlens_q, seqlens_k = zip(*pairs, strict=True)
    problem = Problem(lengths=Varlen(seqlens_q=seqlens_q, seqlens_k=seqlens_k), window=window)
    longest = max(seqlens_k)
    left, right = (-1 if side >= longest else side for side in window)
    placed = (longest if left < 0 <= right else left, longest if right < 0 <= left else right)
    taken = Problem(lengths=problem.lengths, window=placed)
    right_masks = all(torch.equal(visible(problem, q, k, CPU), visible(taken, q, k, CPU)) for q, k in pairs)
    assert window_past_every_key(problem) == (not right_masks)


def test_how_often_torch_s_cpu_backward_rounds() -> None:
    """The predicate counts sums, of which the page's first example has 320."""

    def covered(**changes: Any) -> bool:
        return many_gradient_sums(Problem(direction="forward_backward", **changes))

    assert covered(heads_q=64, lengths=Dense(seqlen_q=160))
    assert covered(heads_q=2, heads_kv=1, lengths=Dense(seqlen_q=97))
    assert not covered(heads_q=2, heads_kv=2, lengths=Dense(seqlen_q=97))
    assert not covered(heads_q=2, heads_kv=1, lengths=Dense(seqlen_q=96))
    assert covered(lengths=Dense(seqlen_q=449))
    assert not covered(lengths=Dense(seqlen_q=768)), "three blocks of 256"
    assert not many_gradient_sums(Problem(heads_q=64, lengths=Dense(seqlen_q=160)))


@pytest.mark.parametrize(("seqlens_k", "few"), [((15,), True), ((16,), False), ((0, 16), False), ((64, 1), True)])
def test_fewer_keys_than_a_vector_has_elements(seqlens_k: tuple[int, ...], few: bool) -> None:
    lengths = Varlen(seqlens_q=(1,) * len(seqlens_k), seqlens_k=seqlens_k)
    assert few_keys(Problem(lengths=lengths)) == few
