"""What a process does that follows an order: batches that are shared, losses that are compared."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2 import training
from fa2verify.benchmarks.gpt2.attention import CHOICES, Choice
from fa2verify.benchmarks.gpt2.process import Order, follow
from fa2verify.benchmarks.gpt2.training import OutOfTime, Setting
from fa2verify.benchmarks.gpt2.turn import Turn
from fa2verify.reports.benchmark_record import LossAgreement, Training


def choose(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., Tensor]) -> None:
    """Make `attend` the attention "mine"."""
    monkeypatch.setitem(CHOICES, "mine", Choice(lambda context, device: attend))


def order(**given: Any) -> Order:
    defaults: dict[str, Any] = {
        "model": "tiny",
        "context": 16,
        "steps": 2,
        "dtype": "bfloat16",
        "device": "cpu",
        "attentions": ("standard",),
        "modes": ("eager",),
        "seconds": 60.0,
    }
    return Order(**(defaults | given))


def test_attentions_agree_within_noise_and_a_wrong_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def sees_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5, -1)
        return torch.einsum("bhij,bjhd->bihd", weights, v)

    choose(monkeypatch, sees_all)
    attentions = ("torch-math", "fa2verify-triton", "mine")
    lines = list(follow(order(steps=4, batch=2, twins=9, attentions=("standard", *attentions))))
    agreements = {line.attention: line for line in lines if isinstance(line, LossAgreement)}
    assert {name: line.within_noise for name, line in agreements.items()} == {
        "torch-math": True,
        "fa2verify-triton": True,
        "mine": False,
    }
    assert all(len(line.noise) == 9 and min(line.noise) > 0 for line in agreements.values())


def test_attentions_of_linear_memory_share_a_batch_and_what_does_not_fit_gets_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = []

    def find(setting: Setting, attention: str, limit: int) -> int:
        searched.append(attention)
        return 3 if attention == "standard" else 16

    def pretend(
        setting: Setting, attention: str, mode: Any, batch: int, source: str, deadline: float, turn: Turn
    ) -> Training:
        full = attention == "fa2verify-cuda" and batch > 14
        return Training(
            cell="c",
            model="tiny",
            context=16,
            attention=attention,
            mode=mode,
            memory=0,
            dtype="bfloat16",
            outcome="out_of_memory" if full else "measured",
            batch=batch,
            batch_from=source,
        )

    monkeypatch.setattr(training, "largest_batch", find)
    monkeypatch.setattr(training, "train", pretend)
    made = follow(order(attentions=("fa2verify-triton", "fa2verify-cuda", "standard")))
    found = {line.attention: (line.batch, line.batch_from) for line in made if isinstance(line, Training)}
    source = "largest of fa2verify-triton, eager"
    assert found == {
        "fa2verify-triton": (16, source),
        "fa2verify-cuda": (14, f"{source}, then less"),
        "standard": (3, "largest of standard, eager"),
    }
    assert searched == ["fa2verify-triton", "standard"]

    # Where not all are trained, the batch is still that of all.
    searched.clear()
    made = follow(order(attentions=("fa2verify-cuda",), searched=("standard", "torch-flash", "fa2verify-cuda")))
    assert {line.batch_from for line in made if isinstance(line, Training)} == {
        "largest of torch-flash, eager, then less"
    }
    assert searched == ["torch-flash"]


def test_a_training_whose_time_is_up_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*given: Any) -> Training:
        raise OutOfTime("time was up after 1 steps")

    monkeypatch.setattr(training, "train", late)
    assert not list(follow(order(attentions=("standard", "fa2verify-triton"), batch=2)))


def test_an_order_survives_the_command_line() -> None:
    given = order(twins=3, modes=("compiled", "eager"))
    adapter = TypeAdapter(Order)
    assert adapter.validate_json(adapter.dump_json(given)) == given
