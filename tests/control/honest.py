"""Correct kernels in plain PyTorch, which round where real kernels round: the suite's control group.

None of them may ever fail. They rearrange the same attention in the ways that shipped kernels do: FlashAttention-2's
blocks in either order, probabilities normalised before or after they are rounded, keys split and combined by lse, all
of it in fp32, and plain operations in the problem's dtype with the scale in different places.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fa2verify.kernels.autograd import differentiate
from fa2verify.kernels.dropout import kept
from fa2verify.kernels.kernel import Kernel, Outputs, ScoreDtype
from fa2verify.kernels.mask import distance, visible
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sequences import Block, blocks, join, join_rows
from fa2verify.kernels.tensors import Tensors


@dataclass(frozen=True)
class Scene:
    """One block's inputs in fp32 with key heads repeated, and what its scores need besides them."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    seen: Tensor
    bias: Tensor | None
    keep: Tensor | None

    @classmethod
    def of(cls, problem: Problem, block: Block) -> "Scene":
        q, dout = block.q.float(), block.dout.float()
        k, v = (tensor.float().repeat_interleave(problem.group, 1) for tensor in (block.k, block.v))
        lengths = (q.shape[2], k.shape[2], q.device)
        bias = None
        if block.slopes is not None:
            bias = -block.slopes[:, :, None, None] * distance(problem, *lengths).abs()
        keep = None
        if problem.dropout:
            masks = [kept(problem, block.first + index, *lengths) for index in range(q.shape[0])]
            keep = torch.stack(masks).float() / (1 - problem.dropout)
        return cls(problem, q, k, v, dout, visible(problem, *lengths), bias, keep)

    def scores(self, keys: slice = slice(None)) -> Tensor:
        s = (self.q @ self.k[:, :, keys].mT) * self.problem.softmax_scale
        if self.problem.softcap:
            s = torch.tanh(s / self.problem.softcap) * self.problem.softcap
        if self.bias is not None:
            s = s + self.bias[..., keys]
        return s.masked_fill(~self.seen[:, keys], float("-inf"))

    def rounded(self, tensor: Tensor) -> Tensor:
        """Through the problem's dtype."""
        return tensor.to(getattr(torch, self.problem.dtype)).float()

    def dropped(self, weights: Tensor, keys: slice = slice(None)) -> Tensor:
        return weights if self.keep is None else weights * self.keep[..., keys]


Forward = Callable[[Scene], tuple[Tensor, Tensor]]


def flash(scene: Scene, width: int, descending: bool) -> tuple[Tensor, Tensor]:
    """FlashAttention-2's forward, Algorithm 1 of arXiv 2307.08691, over key blocks of `width`."""
    shape = scene.q.shape[:-1]
    top = torch.full(shape, float("-inf"), device=scene.q.device)
    total, acc = torch.zeros_like(top), torch.zeros_like(scene.q)
    starts = range(0, scene.k.shape[2], width)
    for start in reversed(starts) if descending else starts:
        keys = slice(start, start + width)
        s = scene.scores(keys)
        new_top = torch.maximum(top, s.amax(-1))
        base = new_top.masked_fill(new_top == float("-inf"), 0.0)
        p = torch.exp(s - base[..., None])
        shrink = torch.exp(top - base)
        total = total * shrink + p.sum(-1)
        acc = acc * shrink[..., None] + scene.rounded(scene.dropped(p, keys)) @ scene.v[:, :, keys]
        top = new_top
    lse = top + total.log()
    return acc / total.masked_fill(total == 0, 1.0)[..., None], lse


def normalised(scene: Scene) -> tuple[Tensor, Tensor]:
    """Probabilities divided by their sum in fp32 before they are rounded."""
    s = scene.scores()
    lse = torch.logsumexp(s, -1)
    p = torch.exp(s - lse.masked_fill(lse == float("-inf"), 0.0)[..., None])
    return scene.rounded(scene.dropped(p)) @ scene.v, lse


def exact(scene: Scene) -> tuple[Tensor, Tensor]:
    """fp32 throughout, rounded once at the end."""
    s = scene.scores()
    lse = torch.logsumexp(s, -1)
    p = torch.exp(s - lse.masked_fill(lse == float("-inf"), 0.0)[..., None])
    return scene.dropped(p) @ scene.v, lse


def split(scene: Scene, parts: int) -> tuple[Tensor, Tensor]:
    """Keys in `parts` splits, each normalised on its own, combined by their lse in fp32 (FlashDecoding)."""
    width = max(1, -(-scene.k.shape[2] // parts))
    outs, lses = [], []
    for start in range(0, max(scene.k.shape[2], 1), width):
        keys = slice(start, start + width)
        s = scene.scores(keys)
        top = s.amax(-1) if s.shape[-1] else torch.full(s.shape[:-1], float("-inf"), device=s.device)
        base = top.masked_fill(top == float("-inf"), 0.0)
        p = torch.exp(s - base[..., None])
        total = p.sum(-1)
        outs.append(
            scene.rounded(scene.dropped(p, keys)) @ scene.v[:, :, keys] / total.masked_fill(total == 0, 1)[..., None]
        )
        lses.append(base + total.log())
    lse = torch.logsumexp(torch.stack(lses), 0)
    base = lse.masked_fill(lse == float("-inf"), 0.0)
    return sum(torch.exp(part - base)[..., None] * out for part, out in zip(lses, outs, strict=True)), lse  # type: ignore[return-value]


@dataclass(frozen=True)
class Gradients:
    """FlashAttention-2's backward, Algorithm 2. What is rounded besides P, dS and the results differs by project.

    round_probabilities  P rounded to the dtype before dV = P^T dO
    round_gradients      dS rounded before dQ and dK
    store_heads          each query head's dK and dV stored in the dtype before the sum over the group
    d_from_p             D = rowsum(P dP) instead of rowsum(O dO)
    """

    round_probabilities: bool = True
    round_gradients: bool = True
    store_heads: bool = False
    d_from_p: bool = False

    def __call__(self, scene: Scene, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem, scale = scene.problem, scene.problem.softmax_scale
        s = (scene.q @ scene.k.mT) * scale
        p = torch.exp(scene.scores() - lse.masked_fill(lse == float("-inf"), 0.0)[..., None])
        dp = scene.dropped(scene.dout @ scene.v.mT)
        d = (p * dp).sum(-1, keepdim=True) if self.d_from_p else (scene.dout * out).sum(-1, keepdim=True)
        ds = p * (dp - d)
        if problem.softcap:
            ds = ds * (1 - torch.tanh(s / problem.softcap) ** 2)
        weights = scene.dropped(p)
        if self.round_probabilities:
            weights = scene.rounded(weights)
        if self.round_gradients:
            ds = scene.rounded(ds)
        heads = [scale * (ds.mT @ scene.q), weights.mT @ scene.dout]
        if self.store_heads:
            heads = [scene.rounded(head) for head in heads]
        dk, dv = (head.unflatten(1, (problem.heads_kv, problem.group)).sum(2) for head in heads)
        return scale * (ds @ scene.k), dk, dv


class HonestKernel(Kernel):
    """A forward and a backward of the above, as one kernel."""

    gives_lse = True
    score_dtype: ScoreDtype = "fp32"

    def __init__(self, name: str, forward: Forward, backward: Gradients) -> None:
        self.name, self.lineage = name, f"control: {name}"
        self._forward, self._backward = forward, backward

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        dtype = getattr(torch, problem.dtype)
        found: list[list[Tensor]] = []
        for block in blocks(problem, tensors):
            scene = Scene.of(problem, block)
            out, lse = self._forward(scene)
            out = scene.rounded(out)
            found.append([out, lse, *(self._backward(scene, out, lse) if problem.backward else ())])
        columns = list(zip(*found, strict=True))
        lse = join_rows(problem, columns[1], past=float("-inf"))
        return Outputs(join(problem, columns[0]).to(dtype), lse, *(join(problem, c).to(dtype) for c in columns[2:]))


class PlainKernel(Kernel):
    """Plain PyTorch operations in the problem's dtype, gradients by autograd."""

    score_dtype: ScoreDtype = "dtype"

    def __init__(self, name: str, weights: Callable[[Tensor, Tensor, float, Tensor], Tensor]) -> None:
        self.name, self.lineage, self._weights = name, f"control: {name}", weights

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        if problem.softcap or problem.alibi or problem.dropout:
            return ("it takes no softcap, ALiBi or dropout",)
        return ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            parts = []
            inputs = Tensors(q, k, v, tensors.dout, None, None, 0, 0, None)
            for block in blocks(problem, inputs):
                keys, values = (tensor.repeat_interleave(problem.group, 1) for tensor in (block.k, block.v))
                seen = visible(problem, block.q.shape[2], keys.shape[2], q.device)
                blind = ~seen.any(-1, keepdim=True)
                p = self._weights(block.q, keys, problem.softmax_scale, seen | blind).masked_fill(blind, 0)
                parts.append(p @ values)
            return join(problem, parts), None

        return differentiate(forward, problem, tensors)


def _scaled_q(q: Tensor, k: Tensor, scale: float, seen: Tensor) -> Tensor:
    return torch.softmax(((q * scale) @ k.mT).masked_fill(~seen, float("-inf")), -1)


def _scaled_scores(q: Tensor, k: Tensor, scale: float, seen: Tensor) -> Tensor:
    return torch.softmax((q @ k.mT * scale).masked_fill(~seen, float("-inf")), -1)


def _additive_mask(q: Tensor, k: Tensor, scale: float, seen: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * scale + torch.where(seen, 0.0, float("-inf")).to(q.dtype), -1)


def _by_hand(q: Tensor, k: Tensor, scale: float, seen: Tensor) -> Tensor:
    s = (q @ (k * scale).mT).masked_fill(~seen, float("-inf"))
    # Detached: autograd through the maximum would put the rounding errors of the whole row on one key.
    e = torch.exp(s - s.amax(-1, keepdim=True).detach() if s.shape[-1] else s)
    return e / e.sum(-1, keepdim=True)


def _fp32_softmax(q: Tensor, k: Tensor, scale: float, seen: Tensor) -> Tensor:
    return torch.softmax((q @ k.mT * scale).float().masked_fill(~seen, float("-inf")), -1).to(q.dtype)


flash_64 = HonestKernel("flash-64", lambda scene: flash(scene, 64, descending=False), Gradients())
flash_16_descending = HonestKernel(
    "flash-16-descending", lambda scene: flash(scene, 16, descending=True), Gradients(store_heads=True)
)
normalised_first = HonestKernel("normalised-first", normalised, Gradients(d_from_p=True))
fp32_throughout = HonestKernel("fp32-throughout", exact, Gradients(round_probabilities=False, round_gradients=False))
split_3 = HonestKernel("split-3", lambda scene: split(scene, 3), Gradients(round_gradients=False))
plain_scaled_q = PlainKernel("plain-scaled-q", _scaled_q)
plain_scaled_scores = PlainKernel("plain-scaled-scores", _scaled_scores)
plain_additive_mask = PlainKernel("plain-additive-mask", _additive_mask)
plain_softmax_by_hand = PlainKernel("plain-softmax-by-hand", _by_hand)
plain_fp32_softmax = PlainKernel("plain-fp32-softmax", _fp32_softmax)

HONEST: tuple[Kernel, ...] = (
    flash_64,
    flash_16_descending,
    normalised_first,
    fp32_throughout,
    split_3,
    plain_scaled_q,
    plain_scaled_scores,
    plain_additive_mask,
    plain_softmax_by_hand,
    plain_fp32_softmax,
)
