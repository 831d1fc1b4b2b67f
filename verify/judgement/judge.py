"""The rules R0, R1 and R2: whether one kernel's outputs for one problem are right. See docs/numerics.md."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Steps
from fa2verify.kernels.sequences import join
from fa2verify.reports.record import OutputError, OutputName
from fa2verify.verify.judgement.bounds import EPS, UNIT_ROUNDOFF, Rounding
from fa2verify.verify.judgement.measure import R2_LIMIT, Comparison
from fa2verify.verify.judgement.truth import Truth

# The rule that is broken, for example "R2 out", and what a person should read.
Breach = tuple[str, str]

_GRADIENTS: tuple[OutputName, ...] = ("dq", "dk", "dv")


@dataclass(frozen=True)
class Judgement:
    """What the rules say.

    rule         the first rule that failed, for example "R2 out"; None: all hold
    message      observed and bound, where, for a person
    comparisons  of each output that could be compared
    """

    rule: str | None
    message: str
    comparisons: tuple[Comparison, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return self.rule is None

    @property
    def errors(self) -> tuple[OutputError, ...]:
        """A measurement of each output that could be compared."""
        return tuple(comparison.error() for comparison in self.comparisons)


def judged_outputs(problem: Problem, kernel: Kernel) -> tuple[OutputName, ...]:
    """The outputs that the kernel owes for this problem."""
    names: list[OutputName] = ["out"]
    if kernel.gives_lse:
        names.append("lse")
    return (*names, *(_GRADIENTS if problem.backward else ()))


def judge(problem: Problem, kernel: Kernel, outputs: object, truth: Truth) -> Judgement:
    """Judge what `kernel` gave for `problem` by R0, R1 and R2, in this order; the first rule to fail is named."""
    if not isinstance(outputs, Outputs):  # foreign code: what it declares to return need not be what it returns
        return Judgement("R0 outputs", f"the call returned {type(outputs).__qualname__}, not Outputs")
    names = judged_outputs(problem, kernel)
    for name in names:
        if breach := wrong_form(name, problem, getattr(outputs, name), getattr(truth.reference, name)):
            return Judgement(*breach)
    found = {name: _comparable(name, kernel, getattr(outputs, name)) for name in names}
    bounds = truth.bounds(kernel.score_dtype)
    comparisons = tuple(
        Comparison(
            output=name,
            dtype=_stored(name, problem),
            candidate=found[name],
            reference=getattr(truth.reference, name),
            baseline=truth.baseline_errors.get(name),
            bound=bounds[name],
        )
        for name in names
    )
    rules: tuple[Callable[[], Breach | None], ...] = (
        *(partial(_past_the_last, problem, comparison) for comparison in comparisons),
        *(partial(_non_finite, comparison) for comparison in comparisons),
        partial(_exact_rows, problem, kernel, found, truth),
        *(partial(_headline, comparison) for comparison in comparisons),
        *(partial(_elementwise, comparison) for comparison in comparisons),
    )
    breach = next((breach for rule in rules if (breach := rule())), None)
    rule, message = breach or (None, "")
    return Judgement(rule, message, comparisons)


def _stored(name: OutputName, problem: Problem) -> str:
    return "float32" if name == "lse" else problem.dtype


def wrong_form(name: OutputName, problem: Problem, candidate: object, reference: Tensor) -> Breach | None:
    """R0: what is wrong with the shape, the dtype, the device or the layout of an output.

    reference  a tensor of the right shape, on the right device
    """
    dtype = getattr(torch, _stored(name, problem))
    if not isinstance(candidate, Tensor):
        return f"R0 {name} missing", f"{name} is {reprlib.repr(candidate)}, not a tensor"
    if candidate.shape != reference.shape:
        return f"R0 {name} shape", f"{name} has shape {tuple(candidate.shape)}, not {tuple(reference.shape)}"
    if candidate.dtype != dtype:
        return f"R0 {name} dtype", f"{name} is {candidate.dtype}, not {dtype}"
    if candidate.device != reference.device:
        return f"R0 {name} device", f"{name} is on {candidate.device}, not on {reference.device}"
    if candidate.layout != torch.strided:
        return f"R0 {name} layout", f"{name} is {candidate.layout}, not torch.strided"
    return None


def _comparable(name: OutputName, kernel: Kernel, candidate: Tensor) -> Tensor:
    """The bare numbers; an empty row's lse as the contract has it, where the kernel declares +inf."""
    candidate = candidate.detach()
    if name == "lse" and kernel.empty_lse == float("inf"):
        return candidate.masked_fill(candidate == float("inf"), float("-inf"))
    return candidate


def _past_the_last(problem: Problem, compared: Comparison) -> Breach | None:
    """Rows of packed tensors past the last sequence are 0, those of lse -inf."""
    if not problem.tail:
        return None
    lse = compared.output == "lse"
    first = compared.candidate.shape[-1 if lse else 0] - problem.tail
    expected = float("-inf") if lse else 0.0
    wrong = (compared.candidate[..., first:] if lse else compared.candidate[first:]) != expected
    if not bool(wrong.any()):
        return None
    index = [int(i) for i in wrong.nonzero()[0]]
    index[-1 if lse else 0] += first
    return (
        f"R0 {compared.output} past the last sequence",
        f"{compared.output}{index} is {float(compared.candidate[tuple(index)]):.6g}, not {expected:g}: "
        f"the last sequence ends before row {first}",
    )


def _non_finite(compared: Comparison) -> Breach | None:
    """The same elements are NaN or infinite; beyond the dtype's range, infinity of the reference's sign is right."""
    wrong = ~compared.finite
    if not bool(wrong.any()):
        return None
    name, wide, reference = compared.output, compared.wide, compared.reference
    highest = torch.finfo(getattr(torch, compared.dtype)).max
    may_overflow = reference.abs() + compared.bound >= highest
    same = (wide == reference) | (wide.isnan() & reference.isnan())
    wrong = wrong & ~same & ~(may_overflow & (wide == torch.sign(reference) * float("inf")))
    if not bool(wrong.any()):
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return (
        f"R0 {name} finite",
        f"{name}{list(index)} is {float(wide[index])}, not {float(reference[index]):.6g} "
        f"({int(wrong.sum())} such elements)",
    )


def _exact_rows(problem: Problem, kernel: Kernel, found: dict[OutputName, Tensor], truth: Truth) -> Breach | None:
    """Rows that see no key give exact zeros; a row that sees one key gives that key's v."""
    zeros = {"out": [part.visible.any(-1) for part in truth.parts]}
    if problem.backward:
        zeros["dq"] = zeros["out"]
        seen_keys = [part.visible.any(0) for part in truth.parts]
        zeros["dk"] = zeros["dv"] = seen_keys
    for name, rows in zeros.items():
        output: OutputName = name  # type: ignore[assignment]
        heads = problem.heads_q if name in ("out", "dq") else problem.heads_kv
        blind = join(problem, [_spread(~row, problem, heads) for row in rows])
        wrong = blind & (found[output] != 0)
        if bool(wrong.any()):
            index = tuple(int(i) for i in wrong.nonzero()[0])
            value = float(found[output][index])
            return f"R0 {name} empty row", f"{name}{list(index)} is {value:.6g}, not 0: nothing is visible there"
    if problem.dropout:
        return None
    single = join(problem, [_one_key(part, kernel) for part in truth.parts])
    wrong = single & (found["out"].to(truth.reference.out.dtype) != truth.reference.out)
    if not bool(wrong.any()):
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return (
        "R0 out one key",
        f"out{list(index)} is {float(found['out'][index]):.6g}, not v = {float(truth.reference.out[index]):.6g} "
        "of the only key that this row sees",
    )


def _spread(rows: Tensor, problem: Problem, heads: int) -> Tensor:
    """Bool (seqlen) as (batch, heads, seqlen, head_dim) of one block."""
    batch = 1 if problem.is_varlen else problem.batch
    return rows[None, None, :, None].expand(batch, heads, -1, problem.head_dim)


def _one_key(part: Steps, kernel: Kernel) -> Tensor:
    """Where out must be v exactly: one key is seen, and fp32 errors of its weight cannot reach half v's last place."""
    rounding = Rounding(part, kernel.score_dtype)
    alone = (rounding.steps.visible.sum(-1) == 1)[None, None, :, None]
    exponent_error = (rounding.abs_scores.amax(-1, keepdim=True) if rounding.steps.k.shape[2] else 0.0) * 4 * EPS
    return (alone & (exponent_error < UNIT_ROUNDOFF[rounding.steps.problem.dtype] / 4)).expand_as(rounding.steps.out)


def _headline(compared: Comparison) -> Breach | None:
    if compared.baseline is None:
        return None
    allowed = max(2 * compared.baseline, compared.floor)
    if compared.max_abs <= allowed:
        return None
    return (
        f"R1 {compared.output}",
        f"max |{compared.output} - reference| is {compared.max_abs:.4g}; PyTorch's is {compared.baseline:.4g}, so at "
        f"most {allowed:.4g} is allowed (twice PyTorch's, or max F = {compared.floor:.4g})",
    )


def _elementwise(compared: Comparison) -> Breach | None:
    if compared.bound_units <= R2_LIMIT:
        return None
    observed, expected = float(compared.wide[compared.worst]), float(compared.reference[compared.worst])
    return (
        f"R2 {compared.output}",
        f"{compared.output}{list(compared.worst)} is {observed:.6g}, not {expected:.6g}: off by "
        f"{abs(observed - expected):.4g}, at most {R2_LIMIT} F = "
        f"{R2_LIMIT * float(compared.bound[compared.worst]):.4g} is allowed",
    )
