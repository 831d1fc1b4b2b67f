"""The reference against attention written a second time, row by row, and against torch's own in fp64.

Its gradients are explicit formulas; here they are what autograd makes of the second version's forward.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from rowwise import assert_close, peak, second_version, sees, tolerances
from torch.nn.attention import SDPBackend, sdpa_kernel

from fa2verify.kernels.features import FEATURES, features
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference, steps
from fa2verify.kernels.tensors import make_tensors
from fa2verify.strategies.problems import Size, problems

SMALL = Size(max_seqlen=40, max_scores=2000, max_batch=3, max_heads=4)


def test_drawn_problems_against_the_second_version() -> None:
    """With every feature of the matrix among them."""
    met: set[str] = set()

    @settings(max_examples=120, database=None, derandomize=True, deadline=None)
    @given(problems(lambda _: (), size=SMALL, direction="forward_backward"))
    def compare(problem: Problem) -> None:
        met.update(features(problem))
        tensors = make_tensors(problem)
        found = reference(problem, tensors)
        assert found.out.dtype == found.dk.dtype == torch.float64  # type: ignore[union-attr]
        assert_close(found, second_version(problem, tensors), tolerances(problem, tensors))

    compare()
    assert set(FEATURES) - met == {"forward"}


EVERYTHING = Problem(
    lengths=Varlen(seqlens_q=(5, 0, 3, 7, 2), seqlens_k=(3, 4, 0, 7, 9)),
    heads_q=4,
    heads_kv=2,
    head_dim=12,
    causal="bottom_right",
    window=(4, -1),
    scale=-0.7,
    softcap=1.5,
    alibi="per_batch_head",
    dropout=0.3,
    dropout_seed=11,
    direction="forward_backward",
)


@pytest.mark.parametrize("values", ["randn", "large", "tied_keys", "huge_logit"])
@pytest.mark.parametrize("causal", [None, "top_left", "bottom_right"])
def test_all_features_at_once(causal: str | None, values: str) -> None:
    """Drawn problems have few features at a time; here is one with all of them."""
    problem = replace(EVERYTHING, causal=causal, values=values)  # type: ignore[arg-type]
    tensors = make_tensors(problem)
    assert_close(reference(problem, tensors), second_version(problem, tensors), tolerances(problem, tensors))


def test_fp32_is_the_same_in_fp32() -> None:
    for problem in (EVERYTHING, replace(EVERYTHING, dropout=0.0, lengths=Dense(batch=2, seqlen_q=6, seqlen_k=4))):
        tensors = make_tensors(problem)
        found = reference(problem, tensors, "fp32")
        assert found.out.dtype == torch.float32
        assert_close(found, reference(problem, tensors), tolerances(problem, tensors, torch.float32))


@settings(max_examples=100, database=None, derandomize=True, deadline=None)
@given(
    problems(
        lambda p: ("no parameter for it",) if p.softcap or p.dropout or p.is_varlen else (),
        size=SMALL,
        direction="forward_backward",
    )
)
def test_torchs_own_attention_gives_the_same(problem: Problem) -> None:
    """torch's math backend in fp64, its mask an explicit bias; it has no lse, and its own way with empty rows."""
    tensors = make_tensors(problem)
    seqlen_q, seqlen_k = problem.seqlens_q[0], problem.seqlens_k[0]
    offset = problem.diagonal(0)
    seen = torch.tensor(
        [[sees(problem, i + offset, j) for j in range(seqlen_k)] for i in range(seqlen_q)], dtype=torch.bool
    ).reshape(seqlen_q, seqlen_k)
    blind = ~seen.any(-1)
    away = torch.tensor([[float(abs(i + offset - j)) for j in range(seqlen_k)] for i in range(seqlen_q)])
    bias = torch.zeros(seqlen_q, seqlen_k, dtype=torch.float64).expand(problem.batch, problem.heads_q, -1, -1)
    if tensors.alibi_slopes is not None:
        bias = bias - tensors.alibi_slopes.double()[..., None, None] * away.reshape(seqlen_q, seqlen_k)
    bias = bias.masked_fill(~seen & ~blind[:, None], float("-inf"))
    q, k, v = (t.double().transpose(1, 2).detach().requires_grad_() for t in (tensors.q, tensors.k, tensors.v))
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=problem.softmax_scale, enable_gqa=True
        )
    out = out.masked_fill(blind[:, None], 0.0)
    gradients = torch.autograd.grad(out, (q, k, v), tensors.dout.double().transpose(1, 2))
    dq, dk, dv = (gradient.transpose(1, 2) for gradient in gradients)
    expected = Outputs(out.detach().transpose(1, 2), None, dq, dk, dv)
    allowed = tolerances(problem, tensors)
    del allowed["lse"]
    assert_close(reference(problem, tensors), expected, allowed)


def test_a_row_that_sees_nothing() -> None:
    """Rows 0 to 2 of five under bottom-right alignment see none of two keys; a key that no row sees has no gradient."""
    problem = Problem(
        lengths=Dense(seqlen_q=5, seqlen_k=2), causal="bottom_right", head_dim=8, direction="forward_backward"
    )
    found = reference(problem, make_tensors(problem))
    assert found.lse is not None
    assert found.dq is not None
    assert (found.out[:, :3] == 0).all()
    assert (found.dq[:, :3] == 0).all()
    assert (found.lse[..., :3] == float("-inf")).all()
    assert found.lse[..., 3:].isfinite().all()
    assert (found.out[:, 3:] != 0).all()
    unseen = replace(problem, lengths=Dense(seqlen_q=2, seqlen_k=5), causal="top_left")
    found = reference(unseen, make_tensors(unseen))
    assert found.dk is not None
    assert found.dv is not None
    assert (found.dk[:, 2:] == 0).all()
    assert (found.dv[:, 2:] == 0).all()
    assert (found.dv[:, :2] != 0).all()


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(0, 3), (3, 0), (0, 0)])
def test_no_queries_or_no_keys(seqlen_q: int, seqlen_k: int) -> None:
    problem = Problem(lengths=Dense(seqlen_q=seqlen_q, seqlen_k=seqlen_k), head_dim=8, direction="forward_backward")
    found = reference(problem, make_tensors(problem))
    for name, seqlen in (("out", seqlen_q), ("dq", seqlen_q), ("dk", seqlen_k), ("dv", seqlen_k)):
        assert torch.equal(getattr(found, name), torch.zeros(1, seqlen, 1, 8, dtype=torch.float64))
    assert found.lse is not None
    assert found.lse.tolist() == [[[float("-inf")] * seqlen_q]]


def test_one_key_by_hand() -> None:
    """P = 1: out is v, lse the score, dV the gradient of out, and dQ = dK = 0."""
    problem = Problem(lengths=Dense(seqlen_q=1, seqlen_k=1), head_dim=8, direction="forward_backward")
    tensors = make_tensors(problem)
    found = reference(problem, tensors)
    assert torch.equal(found.out, tensors.v.double())
    assert torch.equal(found.dv, tensors.dout.double())  # type: ignore[arg-type]
    assert found.lse is not None
    score = float((tensors.q.double() * tensors.k.double()).sum() / math.sqrt(8))
    assert float(found.lse) == pytest.approx(score, rel=8 * 8 * 2.0**-53)
    assert found.dq is not None
    assert peak(found.dq) <= tolerances(problem, tensors)["dq"]


def test_forward_alone_has_no_gradients() -> None:
    problem = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8)
    found = reference(problem, make_tensors(problem))
    assert (found.dq, found.dk, found.dv) == (None, None, None)


def test_weights_are_a_distribution() -> None:
    """lse is without dropout: the weights before it add up to one wherever a row sees a key."""
    tensors = make_tensors(EVERYTHING)
    for part in steps(EVERYTHING, tensors):
        total = part.p.sum(-1)
        sighted = part.visible.any(-1).expand_as(total)
        assert (total[~sighted] == 0).all()
        if sighted.any():
            assert peak(total[sighted] - 1) <= 2.0**-53 * 64 * (1 + peak(part.lse[sighted]))
