"""A foreign kernel's word about itself: an answer, or an error that names the method and what it did."""

from typing import Any

import pytest
import torch

from fa2verify.kernels import answers
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.support import unsupported_features

CPU = torch.device("cpu")


class Says(Kernel):
    """Answers what the test says; an exception it raises."""

    name, lineage = "says", "test"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return self.unavailable(CPU)

    def __call__(self, problem: Problem, tensors: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("answer", [(), ("No.",), ["No.", "Never."]])
def test_an_answer(answer: Any) -> None:
    assert answers.unsupported(Says(answer), Problem()) == tuple(answer)
    assert answers.unavailable(Says(answer), CPU) == tuple(answer)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ValueError("odd"), "{}() raised ValueError: odd"),
        (None, "{}() gave None; it must give a tuple of sentences, empty for none"),
        ("No.", "{}() gave 'No.'; it must give a tuple of sentences, empty for none"),
        ((3,), "{}() gave (3,); it must give a tuple of sentences, empty for none"),
    ],
)
def test_no_answer(answer: Any, told: str) -> None:
    with pytest.raises(answers.AnswerError) as caught:
        answers.unsupported(Says(answer), Problem())
    assert str(caught.value) == told.format("unsupported")
    # Of a whole machine it is a reason to leave the kernel out, of a feature a reason in the matrix.
    assert answers.unavailable(Says(answer), CPU) == (f"Its {told.format('unavailable')}.",)
    assert set(unsupported_features(Says(answer)).values()) == {(f"Its {told.format('unsupported')}.",)}
