"""What a kernel is to the suite: its defaults, and the gradients that `differentiate` takes for it."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from honest import HONEST, flash_64
from torch import Tensor

from fa2verify.kernels.autograd import differentiate
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors, make_tensors

FORWARD = Problem(lengths=Dense(seqlen_q=2, seqlen_k=3), head_dim=8)
BACKWARD = Problem(lengths=Dense(seqlen_q=2, seqlen_k=3), head_dim=8, direction="forward_backward")


class Minimal(Kernel):
    name, lineage = "minimal", "nobody"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        return Outputs(tensors.q)


def test_a_kernel_promises_nothing_that_it_does_not_declare() -> None:
    kernel = Minimal()
    assert not kernel.gives_lse
    assert kernel.empty_lse == float("-inf")
    assert kernel.score_dtype == "fp32"
    assert kernel.budget == 1.0
    assert repr(kernel) == "<kernel minimal>"


@pytest.mark.parametrize("missing", ["unavailable", "unsupported", "__call__"])
def test_every_method_is_owed(missing: str) -> None:
    methods = {name: getattr(Minimal, name) for name in ("unavailable", "unsupported", "__call__") if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Partial", (Kernel,), {"name": "partial", "lineage": "nobody", **methods})()


def test_outputs_cannot_be_exchanged_afterwards() -> None:
    outputs = Minimal()(FORWARD, make_tensors(FORWARD))
    assert (outputs.lse, outputs.dq, outputs.dk, outputs.dv) == (None, None, None, None)
    with pytest.raises(FrozenInstanceError):
        outputs.out = torch.zeros(1)  # type: ignore[misc]


def test_the_control_group_has_names_and_lineages_of_its_own() -> None:
    assert len({kernel.name for kernel in HONEST}) == len({kernel.lineage for kernel in HONEST}) == len(HONEST) == 10


def weighted_sum(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * q + 3 * k.sum() + 5 * v.sum(), q.sum(-1)


def test_gradients_are_those_of_out_for_dout() -> None:
    tensors = make_tensors(BACKWARD)
    found = differentiate(weighted_sum, BACKWARD, tensors)
    total = tensors.dout.sum()
    assert torch.equal(found.dq, 2 * tensors.dout)  # type: ignore[arg-type]
    assert torch.equal(found.dk, (3 * total).expand_as(tensors.k))  # type: ignore[arg-type]
    assert torch.equal(found.dv, (5 * total).expand_as(tensors.v))  # type: ignore[arg-type]
    assert found.lse is not None
    assert not any(output.requires_grad for output in (found.out, found.lse))
    assert not tensors.q.requires_grad


def test_forward_alone_builds_no_graph() -> None:
    built: list[bool] = []

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        built.append((q * 1).requires_grad or torch.is_grad_enabled())
        return q, None

    found = differentiate(forward, FORWARD, make_tensors(FORWARD))
    assert built == [False]
    assert (found.dq, found.dk, found.dv) == (None, None, None)


def test_an_unused_input_is_an_error_and_no_zero() -> None:
    """A kernel whose autograd forgets k must not be given zeros that it never computed."""
    with pytest.raises(RuntimeError, match="not have been used"):
        differentiate(lambda q, k, v: (q + v.sum(), None), BACKWARD, make_tensors(BACKWARD))


def test_outputs_are_the_kernels_own_shape_whatever_it_is() -> None:
    """Nothing on the way to the judge repairs a wrong answer."""
    found = differentiate(lambda q, k, v: (q[:, :1], None), FORWARD, make_tensors(FORWARD))
    assert found.out.shape == (1, 1, 1, 8)


def test_a_kernel_may_be_called_twice() -> None:
    tensors = make_tensors(BACKWARD)
    first, second = flash_64(BACKWARD, tensors), flash_64(BACKWARD, tensors)
    for name in ("out", "lse", "dq", "dk", "dv"):
        assert torch.equal(getattr(first, name), getattr(second, name))
