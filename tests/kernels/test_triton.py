"""Our Triton kernel against dense fp64 PyTorch, within the worst-case bound B.

B is every rounding of FlashAttention-2 at its worst: P rounded to the dtype (u), a score off by its fp32 error, results
rounded once, underflow (eta). u is the dtype's unit roundoff, eps fp32's, eta half the smallest subnormal. The error dD
of D = rowsum(dO * O) is one number a query: it factors out of dQ, but in dK those of all queries may add up, so that Q
goes in by its absolute value.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.kernels.triton.mode import unavailable
from fa2verify.verify.trial.attempt import Bench, attempt

DEVICE = torch.device("cpu" if not unavailable(torch.device("cpu")) else "cuda")
EPS = 2.0**-24
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
ETA = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
NAMES = ("out", "lse", "dq", "dk", "dv")


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory is NaN, so that an element nobody writes shows."""
    assert TritonKernel().unavailable(DEVICE) == ()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def problem(seqlen_q: int = 70, seqlen_k: int = 70, batch: int = 1, **fields: Any) -> Problem:
    lengths = Dense(batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
    defaults: dict[str, Any] = {"lengths": lengths, "head_dim": 32, "direction": "forward_backward"}
    return Problem(**(defaults | fields))


def one_sequence(
    p: Problem, diagonal: int, q: Tensor, k: Tensor, v: Tensor, dout: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values and bounds of one sequence; inputs fp64 (heads, seqlen, head_dim), key heads not repeated."""
    u, eta, scale = UNIT[p.dtype], ETA[p.dtype], p.softmax_scale
    k, v = k.repeat_interleave(p.group, 0), v.repeat_interleave(p.group, 0)

    def grouped(x: Tensor) -> Tensor:
        return x.reshape(p.heads_kv, p.group, *x.shape[1:]).sum(1)

    i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])[None, :]
    seen = (j <= i + diagonal) if p.causal else torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    s = (scale * q @ k.mT).masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(s, -1)
    P = torch.exp(s - lse.masked_fill(lse.isinf(), 0)[..., None])  # noqa: N806 -- the paper's names
    O = P @ v  # noqa: E741, N806
    D = (dout * O).sum(-1, keepdim=True)  # noqa: N806
    dP = dout @ v.mT  # noqa: N806
    dS = P * (dP - D)  # noqa: N806
    values = {"out": O, "lse": lse, "dq": scale * dS @ k, "dk": grouped(scale * dS.mT @ q), "dv": grouped(P.mT @ dout)}

    magnitude = (q.abs() @ k.abs().mT).masked_fill(~seen, 0)
    score_error = 4 * EPS * abs(scale) * (float(magnitude.max()) if magnitude.numel() else 0.0)
    u1 = u + score_error + 8 * EPS
    # l, the row sum relative to its maximum, is at least 1: eta sum|V| / l <= eta sum|V|.
    seen64 = seen.double()
    dD = u * (dout * O).abs().sum(-1, keepdim=True) + u1 * (dout.abs() * (P @ v.abs())).sum(-1, keepdim=True)  # noqa: N806
    eS = u1 * dS.abs() + 8 * EPS * P * (dout.abs() @ v.abs().mT)  # noqa: N806
    # lse: the error of its scores, a dozen fp32 roundings of the sum and of what is near |lse|.
    size = lse.masked_fill(lse.isinf(), 0).abs()
    bounds = {
        "out": u1 * (P @ v.abs()) + u * O.abs() + eta * (seen64 @ v.abs()) + 2 * eta,
        "lse": score_error + 12 * EPS * (1 + size),
        "dq": abs(scale) * (eS @ k.abs() + dD * (P @ k).abs() + eta * (seen64 @ k.abs())),
        "dk": grouped(abs(scale) * (eS.mT @ q.abs() + (P * dD).mT @ q.abs() + eta * (seen64.mT @ q.abs()))),
        "dv": grouped(u1 * P.mT @ dout.abs() + eta * (seen64.mT @ dout.abs())),
    }
    for name in ("dq", "dk", "dv"):
        bounds[name] = bounds[name] + u * values[name].abs() + 2 * eta
    return values, bounds


def truth(p: Problem, t: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values and bounds of a whole problem, shaped as the kernel's outputs."""
    tensors = [x.detach().cpu().double() for x in (t.q, t.k, t.v, t.dout)]
    if p.is_varlen:
        lengths = (p.seqlens_q, p.seqlens_k, p.seqlens_k, p.seqlens_q)
        parts = [list(torch.split(x, list(n))) for x, n in zip(tensors, lengths, strict=True)]
    else:
        parts = [list(x) for x in tensors]
    pairs = [one_sequence(p, p.diagonal(b), *(part[b].transpose(0, 1) for part in parts)) for b in range(p.batch)]

    def joined(which: int, name: str) -> Tensor:
        sequences = [pair[which][name] for pair in pairs]
        if name == "lse":
            return torch.cat(sequences, 1) if p.is_varlen else torch.stack(sequences)
        sequences = [x.transpose(0, 1) for x in sequences]
        return torch.cat(sequences) if p.is_varlen else torch.stack(sequences)

    return {n: joined(0, n) for n in NAMES}, {n: joined(1, n) for n in NAMES}


def check(p: Problem) -> Outputs:
    t = make_tensors(p, DEVICE)
    inputs = [x.clone() for x in (t.q, t.k, t.v, t.dout)]
    outputs = TritonKernel()(p, t)
    for name, before, after in zip(("q", "k", "v", "dout"), inputs, (t.q, t.k, t.v, t.dout), strict=True):
        assert torch.equal(before, after), f"{name} was changed by {p.to_json()}"
    values, bounds = truth(p, t)
    for name in NAMES if p.backward else NAMES[:2]:
        got = getattr(outputs, name)
        assert got.dtype == (torch.float32 if name == "lse" else t.q.dtype)
        assert got.shape == values[name].shape, f"{name} of {p.to_json()}"
        got, want, bound = got.cpu().double(), values[name], bounds[name]
        assert torch.equal(got.isfinite(), want.isfinite()), f"{name}: non-finite values differ in {p.to_json()}"
        error = torch.where(got == want, 0.0, (got - want).abs())
        worst = int((error / bound.expand_as(error)).argmax()) if error.numel() else 0
        assert (error <= bound).all(), (
            f"{name}[{worst}] is {got.flatten()[worst]}, expected {want.flatten()[worst]} within "
            f"{bound.expand_as(error).flatten()[worst]}, for {p.to_json()}"
        )
    return outputs


# Blocks are 64 x 32 (forward, dQ) and 32 x 64 (dK and dV) under the interpreter: these lengths sit on both sides.
@pytest.mark.parametrize("causal", [None, "top_left", "bottom_right"])
@pytest.mark.parametrize(
    ("seqlen_q", "seqlen_k"),
    [(1, 1), (1, 64), (1, 65), (2, 5), (5, 2), (31, 33), (64, 64), (65, 33), (33, 129), (128, 31), (97, 1), (100, 130)],
)
def test_lengths_around_block_edges(seqlen_q: int, seqlen_k: int, causal: str | None) -> None:
    dtype = "bfloat16" if seqlen_q % 2 else "float16"
    check(problem(seqlen_q, seqlen_k, causal=causal, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [1, 3, 16, 17, 64, 72, 128, 200, 256])
def test_head_dims(head_dim: int, dtype: str) -> None:
    check(problem(40, 70, head_dim=head_dim, dtype=dtype, causal="bottom_right"))


@pytest.mark.parametrize(("heads_q", "heads_kv"), [(2, 2), (4, 2), (3, 1)])
def test_head_groups(heads_q: int, heads_kv: int) -> None:
    check(problem(66, 40, batch=2, heads_q=heads_q, heads_kv=heads_kv, causal="top_left", dtype="bfloat16"))


@pytest.mark.parametrize("seqlen_q", [0, 3])
@pytest.mark.parametrize("seqlen_k", [0, 3])
def test_dense_without_queries_or_keys(seqlen_q: int, seqlen_k: int) -> None:
    outputs = check(problem(seqlen_q, seqlen_k, batch=2))
    if not seqlen_k:
        assert outputs.lse is not None
        assert outputs.lse.isneginf().all()


@pytest.mark.parametrize("causal", [None, "top_left", "bottom_right"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_varlen(causal: str | None, dtype: str) -> None:
    # Flash-attention 443's lengths come last: many queries, one key.
    lengths = Varlen(seqlens_q=(0, 70, 5, 1, 33, 0, 76), seqlens_k=(4, 70, 0, 66, 9, 0, 1))
    check(problem(lengths=lengths, heads_q=2, heads_kv=1, causal=causal, dtype=dtype))


@pytest.mark.parametrize(
    "lengths", [Varlen(seqlens_q=(0, 0), seqlens_k=(0, 3)), Varlen(seqlens_q=(2,), seqlens_k=(0,))]
)
def test_varlen_without_any_score(lengths: Varlen) -> None:
    check(problem(lengths=lengths))


# Gaps of NaN lie behind the rows of "sliced" and before the tensors of "offset". 20 and 7 leave rows at no multiple of
# 16 bytes, 32 at one.
@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize("layout", ["qkv_packed", "kv_packed", "transposed", "sliced", "offset"])
def test_layouts(layout: str, varlen: bool) -> None:
    lengths = Varlen(seqlens_q=(3, 35), seqlens_k=(3, 35)) if varlen else Dense(batch=2, seqlen_q=35, seqlen_k=35)
    for head_dim in (32, 7) if layout == "sliced" else (20,):
        check(problem(lengths=lengths, heads_q=2, heads_kv=2, head_dim=head_dim, layout=layout, causal="top_left"))


def test_rows_past_the_last_sequence() -> None:
    lengths = Varlen(seqlens_q=(7, 0, 35), seqlens_k=(40, 2, 0))
    past = problem(lengths=lengths, heads_q=2, head_dim=20, causal="bottom_right", layout="tail")
    record = attempt(TritonKernel(), past, Bench(DEVICE))
    assert record.verdict == "passed", record.message


@pytest.mark.parametrize("scale", [0.0, -0.3, 1e-30, 3.0])
@pytest.mark.parametrize("causal", [None, "bottom_right"])
def test_scales(scale: float, causal: str | None) -> None:
    check(problem(70, 50, scale=scale, causal=causal))


@pytest.mark.parametrize("values", ["large", "outliers", "tied_keys", "huge_logit", "shifted_mean", "negative_zero"])
def test_value_families(values: str) -> None:
    check(problem(70, 70, values=values, dtype="bfloat16", head_dim=64))


def test_forward_alone_gives_the_same_bits() -> None:
    p = problem(70, 70)
    both, t = check(p), make_tensors(p, DEVICE)
    alone = TritonKernel()(problem(70, 70, direction="forward"), t)
    assert torch.equal(alone.out, both.out)
    assert alone.dq is None


def test_two_runs_give_the_same_bits() -> None:
    p = problem(70, 90, heads_q=4, heads_kv=2, deterministic=True, dtype="bfloat16", causal="top_left")
    first, second = check(p), check(p)
    for name in NAMES:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_a_row_that_sees_one_key_gives_its_value() -> None:
    p = problem(3, 3, causal="top_left", values="large", head_dim=64)
    t = make_tensors(p, DEVICE)
    assert torch.equal(TritonKernel()(p, t).out[:, 0], t.v[:, 0])


def test_padded_keys_whose_exponential_is_infinite() -> None:
    """Every real score is far below the padded keys' 0, so that their exp2(0 - lse) is infinite."""
    p = problem(40, 40, scale=-8.0, values="shifted_mean", head_dim=16)
    outputs = check(p)
    assert outputs.lse is not None
    assert outputs.lse.max() / math.log(2) < -128
