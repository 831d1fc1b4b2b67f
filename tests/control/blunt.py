"""Kernels with the defects of precision that real ones had: close to right, and wrong.

Each is FlashAttention-2 as in `honest`, with one thing done in too few bits or left out. What the bounds are sharp
enough for is measured on them, see tests/verify/judgement/test_sharpness.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from honest import Forward, Gradients, HonestKernel, Scene, flash
from torch import Tensor

_WIDTH = 32


def _last_key_dropped(scene: Scene) -> tuple[Tensor, Tensor]:
    """The last key of the sequence is seen by nobody."""
    seen = scene.seen.clone()
    seen[:, -1:] = False
    return flash(replace(scene, seen=seen), _WIDTH, descending=False)


def _blocks(
    scene: Scene,
    *,
    weights: Callable[[Tensor], Tensor] = lambda p: p,
    acc: Callable[[Tensor], Tensor] = lambda o: o,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    rescaled: bool = True,
    width: int = _WIDTH,
) -> tuple[Tensor, Tensor]:
    """FlashAttention-2's forward, with what happens to P, O and the row sums after each block."""
    shape = scene.q.shape[:-1]
    top = torch.full(shape, float("-inf"))
    sums, out = torch.zeros(shape), torch.zeros_like(scene.q)
    for start in range(0, scene.k.shape[2], width):
        keys = slice(start, start + width)
        s = scene.scores(keys)
        new_top = torch.maximum(top, s.amax(-1))
        base = new_top.masked_fill(new_top == float("-inf"), 0.0)
        p, shrink = torch.exp(s - base[..., None]), torch.exp(top - base)
        sums = total(sums * shrink + p.sum(-1))
        out = acc((out * shrink[..., None] if rescaled else out) + weights(scene.rounded(p)) @ scene.v[:, :, keys])
        top = new_top
    return out / sums.masked_fill(sums == 0, 1.0)[..., None], top + sums.log()


def _as_bfloat16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def _right(scene: Scene) -> tuple[Tensor, Tensor]:
    return flash(scene, _WIDTH, descending=False)


@dataclass(frozen=True)
class _Spoilt(Gradients):
    """The right gradients, then spoilt: `which` is 0, 1 or 2 for dQ, dK and dV."""

    which: int = 0
    spoil: Callable[[Tensor], Tensor] = lambda gradient: gradient

    def __call__(self, scene: Scene, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = list(super().__call__(scene, out, lse))
        found[self.which] = self.spoil(found[self.which])
        return tuple(found)  # type: ignore[return-value]


def _first_head_doubled(gradient: Tensor) -> Tensor:
    return torch.cat([2 * gradient[:, :1], gradient[:, 1:]], 1)


def _last_row_zero(gradient: Tensor) -> Tensor:
    gradient = gradient.clone()
    gradient[:, :, -1:] = 0
    return gradient


class _Coarse(Scene):
    """Rounds to bf16, whatever the dtype."""

    def rounded(self, tensor: Tensor) -> Tensor:
        return _as_bfloat16(tensor)


@dataclass(frozen=True)
class _CoarseScores(Gradients):
    """dS rounded to bf16 where the dtype is meant."""

    round_probabilities: bool = False

    def __call__(self, scene: Scene, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().__call__(_Coarse(*(getattr(scene, field.name) for field in fields(scene))), out, lse)


def _blunt(name: str, forward: Forward, backward: Gradients | None = None) -> HonestKernel:
    return HonestKernel(name, forward, backward or Gradients())


BLUNT = {
    kernel.name: kernel
    for kernel in (
        _blunt("last key dropped", _last_key_dropped),
        _blunt("O in the dtype after each block", lambda scene: _blocks(scene, acc=scene.rounded, width=16)),
        _blunt("O in the dtype after each key", lambda scene: _blocks(scene, acc=scene.rounded, width=1)),
        _blunt("row sums in the dtype", lambda scene: _blocks(scene, total=scene.rounded)),
        _blunt("O not rescaled", lambda scene: _blocks(scene, rescaled=False)),
        _blunt("P rounded to bf16", lambda scene: _blocks(scene, weights=_as_bfloat16)),
        _blunt("lse in the dtype", lambda scene: (_right(scene)[0], scene.rounded(_right(scene)[1]))),
        _blunt("dS rounded to bf16", _right, _CoarseScores()),
        _blunt("dK of one head doubled", _right, _Spoilt(which=1, spoil=_first_head_doubled)),
        _blunt("dV of the last key zero", _right, _Spoilt(which=2, spoil=_last_row_zero)),
        _blunt("dQ of the last query zero", _right, _Spoilt(which=0, spoil=_last_row_zero)),
        _blunt("dQ off by one part in a thousand", _right, _Spoilt(which=0, spoil=lambda dq: dq * 1.001)),
        _blunt("dK off by one per cent", _right, _Spoilt(which=1, spoil=lambda dk: dk * 1.01)),
    )
}
