"""Relations that allow an error: what they see of the mutants, beside what R0 to R2 see on either of their two calls.

    python tests/control/allowing_relations.py

prints the table of docs/numerics.md, "Relations between calls". A relation turns a call into another one, exactly in
the dtype, whose outputs must be those of the first, mapped. Between them may lie the sum of both calls' bounds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import hypothesis
import torch
from mutants import MUTANTS, Flash
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Problem, Varlen
from fa2verify.kernels.registry import Registered
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.reports.record import OutputName
from fa2verify.verify.judgement.judge import judge, judged_outputs
from fa2verify.verify.judgement.measure import R2_LIMIT
from fa2verify.verify.judgement.truth import Truth
from fa2verify.verify.relations.batch_invariance import alone
from fa2verify.verify.run.plan import related_parts
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite.profiles import EXAMPLES

SEEDS = range(6)
Mapping = Callable[[OutputName, Tensor, bool], Tensor]


def _as_it_is(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Pair:
    """Two calls, and how their outputs, and the bounds of these, are made comparable.

    before, after  what the first call's and the second call's outputs pass through; `size` says that it is a bound
    """

    first: tuple[Problem, Tensors]
    second: tuple[Problem, Tensors]
    before: Mapping = _as_it_is
    after: Mapping = _as_it_is


def _side(name: str) -> str:
    return "k" if name in ("k", "v", "dk", "dv") else "q"


def keys_permuted(problem: Problem, tensors: Tensors) -> Pair | None:
    """Keys and values in another order, where no position matters."""
    positional = problem.causal or problem.window != (-1, -1) or problem.alibi or problem.dropout
    if positional or max(problem.seqlens_k) < 2:
        return None
    lengths = problem.seqlens_k if problem.is_varlen else problem.seqlens_k[:1]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    order = torch.cat([start + torch.arange(length - 1, -1, -1) for start, length in zip(starts, lengths, strict=True)])

    def reordered(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        return tensor.index_select(-3, order) if name in ("dk", "dv") else tensor

    k, v = (tensor.index_select(-3, order) for tensor in (tensors.k, tensors.v))
    return Pair((problem, tensors), (plain(problem), replace(tensors, k=k, v=v)), before=reordered)


def values_doubled(problem: Problem, tensors: Tensors) -> Pair:
    """V times two: out, dQ and dK double, lse and dV stay."""

    def doubled(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        return tensor if name in ("lse", "dv") else 2 * tensor

    return Pair((problem, tensors), (plain(problem), replace(tensors, v=2 * tensors.v)), before=doubled)


def keys_shifted(problem: Problem, tensors: Tensors) -> Pair | None:
    """A vector added to every key: all scores of a row grow alike, so that lse alone changes."""
    if problem.softcap or not tensors.k.numel():
        return None
    shift = torch.tensor([1.0, -1.0]).repeat(-(-problem.head_dim // 2))[: problem.head_dim].to(tensors.k.dtype)
    # Rounded to what shift + K can hold: then K and shift + K are both exact.
    k = (tensors.k + shift) - shift
    first, second = replace(tensors, k=k), replace(tensors, k=k + shift)
    rows = problem.softmax_scale * (tensors.q.double() @ shift.double())

    def raised(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        return tensor if name != "lse" or size else tensor + rows.transpose(-2, -1)

    return Pair((plain(problem), first), (plain(problem), second), before=raised)


def heads_repeated(problem: Problem, tensors: Tensors) -> Pair | None:
    """Key heads repeated for each query head of their group: dK and dV of a group add up to the shared head's."""
    if problem.group == 1:
        return None
    k, v = (tensor.repeat_interleave(problem.group, -2) for tensor in (tensors.k, tensors.v))
    second = plain(replace(problem, heads_kv=problem.heads_q))

    def summed(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        if name not in ("dk", "dv"):
            return tensor
        return tensor.unflatten(-2, (problem.heads_kv, problem.group)).sum(-2)

    return Pair((problem, tensors), (second, replace(tensors, k=k, v=v)), after=summed)


def packed(problem: Problem, tensors: Tensors) -> Pair | None:
    """A dense batch as packed sequences of one length."""
    if problem.is_varlen:
        return None
    lengths = Varlen(seqlens_q=problem.seqlens_q, seqlens_k=problem.seqlens_k)
    second = plain(replace(problem, lengths=lengths))
    offsets = make_tensors(replace(second, values="randn"))
    joined = {name: getattr(tensors, name).flatten(0, 1) for name in ("q", "k", "v", "dout")}

    def flat(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        return tensor.transpose(0, 1).flatten(1, 2) if name == "lse" else tensor.flatten(0, 1)

    both = replace(tensors, **joined, cu_seqlens_q=offsets.cu_seqlens_q, cu_seqlens_k=offsets.cu_seqlens_k)
    return Pair((problem, tensors), (second, both), before=flat)


def batch_split(problem: Problem, tensors: Tensors) -> Pair | None:
    """The last sequence alone."""
    if problem.batch == 1 or problem.dropout:
        return None
    index = problem.batch - 1

    def last(name: OutputName, tensor: Tensor, size: bool) -> Tensor:
        if not problem.is_varlen:
            return tensor[index:]
        length = (problem.seqlens_k if _side(name) == "k" else problem.seqlens_q)[index]
        axis = -1 if name == "lse" else 0
        return tensor.narrow(axis, tensor.shape[axis] - length, length)

    return Pair((problem, tensors), alone(problem, tensors, index), before=last)


RELATIONS: dict[str, Callable[[Problem, Tensors], Pair | None]] = {
    "keys and values permuted": keys_permuted,
    "V doubled": values_doubled,
    "a vector added to all keys": keys_shifted,
    "key heads repeated": heads_repeated,
    "dense as packed": packed,
    "batch split": batch_split,
}


def plain(problem: Problem) -> Problem:
    """The problem without a layout, for tensors that are made anew."""
    return replace(problem, layout="plain")


def called(kernel: Flash, problem: Problem, tensors: Tensors) -> Outputs | None:
    try:
        return kernel(problem, tensors)
    except (RuntimeError, ZeroDivisionError):
        return None


def agree(kernel: Flash, pair: Pair, outputs: tuple[Outputs, Outputs], truths: tuple[Truth, Truth]) -> bool:
    """Whether outputs differ by at most what R2 allows each of them."""
    for name in judged_outputs(pair.first[0], kernel):
        one, other = (getattr(each, name).double() for each in outputs)
        bounds = [truth.bounds(kernel.score_dtype)[name] for truth in truths]
        one, other = pair.before(name, one, False), pair.after(name, other, False)
        allowed = R2_LIMIT * (pair.before(name, bounds[0], True) + pair.after(name, bounds[1], True))
        same = (one == other) | (one.isnan() & other.isnan())
        if not bool((same | ((one - other).abs() <= allowed)).all()):
            return False
    return True


def tally(seed: int) -> dict[str, Counter[str]]:
    """Relation to counts of (mutant, problem), over the problems of one run."""
    torch.set_num_threads(1)
    kernels = [Flash(), *(mutant() for mutant in MUTANTS.values())]
    found: dict[str, Counter[str]] = {name: Counter() for name in RELATIONS}
    for problem in drawn(seed):
        for name, relation in RELATIONS.items():
            pair = relation(problem, make_tensors(problem))
            if pair is None:
                continue
            calls = pair.first, pair.second
            truths = (Truth.of(*pair.first), Truth.of(*pair.second))
            for kernel in kernels:
                outputs = [called(kernel, *call) for call in calls]
                fails = [
                    given is None or not judge(call[0], kernel, given, truth).passed
                    for given, call, truth in zip(outputs, calls, truths, strict=True)
                ]
                broken = None in outputs or not agree(kernel, pair, tuple(outputs), truths)  # type: ignore[arg-type]
                of = "correct" if type(kernel) is Flash else "mutants"
                found[name].update(
                    {
                        f"{of} pairs": 1,
                        f"{of} relation": broken,
                        f"{of} first": fails[0],
                        f"{of} either": any(fails),
                        f"{of} relation alone": broken and not any(fails),
                    }
                )
    return found


def drawn(seed: int) -> Iterable[Problem]:
    """The problems of a run in the default profile for relations."""
    problems: list[Problem] = []
    for part in related_parts(Registered(Flash(), "control"), examples=EXAMPLES["default"], size=SIZES["cpu"]):

        @hypothesis.settings(max_examples=part.examples, database=None, deadline=None)
        @hypothesis.seed(seed)
        @hypothesis.given(problem=part.problems)
        def collect(problem: Problem) -> None:
            problems.append(problem)

        collect()
    return problems


def table(total: dict[str, Counter[str]]) -> Iterator[str]:
    yield "| relation | pairs | it sees | R0 to R2 on the first call | on either | it alone |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, counts in total.items():
        columns = ("pairs", "relation", "first", "either", "relation alone")
        yield f"| {name} | {' | '.join(str(counts[f'mutants {column}']) for column in columns)} |"


def main() -> None:
    """Judge them all and print the table."""
    total: dict[str, Counter[str]] = {name: Counter() for name in RELATIONS}
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        for found in pool.map(tally, SEEDS):
            for name, counts in found.items():
                total[name].update(counts)
    print("\n".join(table(total)))
    wrong = {name: counts["correct relation"] for name, counts in total.items() if counts["correct relation"]}
    print(f"the kernel without a fault: {wrong or 'no relation fails'}")


if __name__ == "__main__":
    main()
