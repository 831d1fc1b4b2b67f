"""What peers conclude from a problem's numbers alone: rows that see nothing, and which alignments agree."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.kernels.mask import visible
from fa2verify.kernels.peers.alignment import misaligned
from fa2verify.kernels.peers.empty_rows import has_empty_rows
from fa2verify.kernels.problem import Causal, Problem, Varlen

LENGTH = st.integers(0, 6)
CAUSAL = st.sampled_from([None, "top_left", "bottom_right"])
WINDOW = st.tuples(st.integers(-1, 4), st.integers(-1, 4))


@given(st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=3), CAUSAL, WINDOW)
def test_empty_rows_are_those_of_the_mask(
    pairs: list[tuple[int, int]], causal: Causal | None, window: tuple[int, int]
) -> None:
    seqlens_q, seqlens_k = zip(*pairs, strict=True)
    problem = Problem(lengths=Varlen(seqlens_q=seqlens_q, seqlens_k=seqlens_k), causal=causal, window=window)
    masks = [visible(problem, q, k, torch.device("cpu")) for q, k in pairs]
    assert has_empty_rows(problem) == any((~mask.any(dim=1)).any() for mask in masks)


@given(st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=3), CAUSAL, WINDOW)
def test_a_kernel_takes_exactly_the_masks_that_its_alignment_gives(
    pairs: list[tuple[int, int]], causal: Causal | None, window: tuple[int, int]
) -> None:
    seqlens_q, seqlens_k = zip(*pairs, strict=True)
    lengths = Varlen(seqlens_q=seqlens_q, seqlens_k=seqlens_k)
    problem = Problem(lengths=lengths, causal=causal, window=window)
    # What a bottom-right kernel does when it is told to be causal, with this window.
    its_own = Problem(lengths=lengths, causal=None if causal is None else "bottom_right", window=window)
    same = all(
        torch.equal(visible(problem, q, k, torch.device("cpu")), visible(its_own, q, k, torch.device("cpu")))
        for q, k in pairs
    )
    if not misaligned(problem, "bottom_right"):
        assert same
    if all(q == k for q, k in pairs):
        assert not misaligned(problem, "bottom_right")
        assert not misaligned(problem, "top_left")


def test_the_sentence_names_both_alignments() -> None:
    lengths = Varlen(seqlens_q=(2, 2), seqlens_k=(2, 3))
    (sentence,) = misaligned(Problem(lengths=lengths, alibi="per_head"), "top_left")
    assert "is top-left and the problem's is bottom-right" in sentence
    assert misaligned(Problem(lengths=lengths), "top_left") == ()
