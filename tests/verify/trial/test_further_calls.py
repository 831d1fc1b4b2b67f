"""A kernel is called again where that can tell more: what goes wrong then is a verdict, and a run does not double."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Layout, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.strategies.problems import problems
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.trial.attempt import Bench, attempt
from fa2verify.verify.trial.further_calls import repeats

CALL = Problem(lengths=Dense(seqlen_q=5, seqlen_k=5), heads_q=2, heads_kv=2, head_dim=24)
PACKED = Varlen(seqlens_q=(3, 2), seqlens_k=(3, 2))
CPU = torch.device("cpu")
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]
Spoil = Callable[[Outputs], Outputs]


class Counting:
    """A right kernel until call `wrong`, counted from 1, whose outputs are spoiled."""

    def __init__(self, right: Right, wrong: int = 0, spoil: Spoil = lambda outputs: outputs) -> None:
        self.right, self.wrong, self.spoil = right, wrong, spoil
        self.layouts: list[Layout] = []
        self.addresses: list[int] = []
        self.kept: list[Tensors] = []

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        self.layouts.append(problem.layout)
        self.addresses.append(tensors.q.data_ptr())
        self.kept.append(tensors)
        outputs = self.right(problem, tensors)
        return self.spoil(outputs) if len(self.layouts) == self.wrong else outputs


@pytest.mark.parametrize(
    ("problem", "layouts"),
    [
        (CALL, ["plain", "plain"]),
        (replace(CALL, layout="transposed"), ["transposed", "sliced", "transposed"]),
        (replace(CALL, layout="sliced"), ["sliced", "transposed", "sliced"]),
        (replace(CALL, layout="qkv_packed"), ["qkv_packed", "sliced", "qkv_packed"]),
        (replace(CALL, layout="tail", lengths=PACKED), ["tail", "tail"]),
        (replace(CALL, head_dim=64, lengths=Dense(seqlen_q=23, seqlen_k=23)), ["plain"]),
        (replace(CALL, lengths=Dense(seqlen_q=160, seqlen_k=160), layout="offset"), ["offset"]),
    ],
)
def test_the_calls(made: Make, right: Right, problem: Problem, layouts: list[Layout]) -> None:
    counting = Counting(right)
    assert attempt(made(counting), problem, Bench(CPU)).verdict == "passed"
    assert counting.layouts == layouts
    assert len(set(counting.addresses)) == len(layouts), "other memory each time"
    assert all(tensors.k[:5].equal(counting.kept[0].k[:5]) for tensors in counting.kept), "the same values"


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_layout_that_the_kernel_does_not_take_is_not_called(made: Make, right: Right, layout: Layout) -> None:
    counting = Counting(right)
    kernel = made(counting)
    kernel.unsupported = lambda p: () if p.layout == layout else ("no",)  # type: ignore[method-assign]
    lengths = PACKED if layout == "tail" else CALL.lengths
    assert attempt(kernel, replace(CALL, layout=layout, lengths=lengths), Bench(CPU)).verdict == "passed"
    assert counting.layouts == [layout, layout]


def test_on_a_gpu_every_problem_is_called_again(made: Make, right: Right) -> None:
    large = Problem(lengths=Dense(seqlen_q=2048, seqlen_k=2048), head_dim=256)
    assert [repeat.problem for repeat in repeats(made(right), large, torch.device("cuda"))] == [large]
    assert not list(repeats(made(right), large, CPU))


@pytest.mark.parametrize(
    ("layout", "wrong", "name"),
    [("plain", 2, "second call"), ("sliced", 2, "second call"), ("sliced", 3, "third call")],
)
@pytest.mark.parametrize(
    ("spoil", "verdict", "rule", "words"),
    [
        (lambda o: replace(o, out=o.out * 2), "failed", "R1 out", "max |out - reference|"),
        (lambda o: replace(o, lse=o.lse * float("nan")), "failed", "R0 lse finite", "is nan"),
        (lambda o: replace(o, out=o.out[:, 1:]), "failed", "R0 out shape", "(1, 4, 2, 24)"),
        (lambda o: replace(o, out=o.out.to_sparse()), "failed", "R0 out layout", "sparse"),
        (lambda o: None, "failed", "R0 outputs", "NoneType"),
        (lambda o: 1 // 0, "crashed", "raised ZeroDivisionError", "division"),
    ],
)
def test_wrong_later(
    made: Make, right: Right, layout: Layout, wrong: int, name: str, spoil: Any, verdict: str, rule: str, words: str
) -> None:
    record = attempt(made(Counting(right, wrong, spoil)), replace(CALL, layout=layout), Bench(CPU))
    assert (record.verdict, record.rule) == (verdict, f"{rule}, {name}")
    assert "called again with the same values in other memory, layout '" in record.message
    assert words in record.message
    assert [error.output for error in record.errors] == ["out", "lse"], "the first call's"
    assert record.decoys == {}


def test_inputs_that_the_second_call_changes(made: Make, right: Right) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        if counting.append(1) or len(counting) == 2:
            tensors.k.zero_()
        return outputs

    counting: list[int] = []
    assert attempt(made(call), CALL, Bench(CPU)).rule == "R0 inputs unchanged, second call"


def test_an_output_that_every_call_writes_into(made: Make, right: Right) -> None:
    """A kernel's own memory, as a captured graph has it: what the first call gave must be looked at before."""
    static = torch.empty(1, 5, 2, 24, dtype=torch.float16)

    def spoiled(spoil: Spoil) -> Record:
        counting = Counting(right, 2, spoil)

        def call(problem: Problem, tensors: Tensors) -> Outputs:
            outputs = counting(problem, tensors)
            return replace(outputs, out=static.copy_(outputs.out))

        return attempt(made(call), CALL, Bench(CPU))

    assert spoiled(lambda outputs: outputs).verdict == "passed"
    assert spoiled(lambda outputs: replace(outputs, out=2 * outputs.out)).rule == "R1 out, second call"


def test_the_same_bits_are_not_judged_again(made: Make, right: Right, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[object] = []
    monkeypatch.setattr("fa2verify.verify.trial.attempt.judge", lambda *call: judged.append(call) or judge(*call))
    assert attempt(made(right), CALL, Bench(CPU)).verdict == "passed"
    assert len(judged) == 1


def test_a_run_does_not_double(made: Make, right: Right) -> None:
    """Scores times head_dim, what an interpreted kernel's time goes with, of all calls to that of the first ones."""
    first = again = calls = 0
    kernel = made(right)

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.seed(5)
    @given(problem=problems(kernel.unsupported, size=SIZES["cpu"]))
    def count(problem: Problem) -> None:
        nonlocal first, again, calls
        work = problem.scores * problem.head_dim
        found = list(repeats(kernel, problem, CPU))
        first, again, calls = first + work, again + work * len(found), calls + len(found)

    count()
    assert again < first / 8
    assert calls > 75, "and yet it says something about many problems"
