"""One kernel on one problem: run it, judge it, and say what happened."""

from dataclasses import replace
from functools import partial

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.reports.record import Record
from fa2verify.verify.judgement.decoys import judge_decoys
from fa2verify.verify.judgement.judge import Judgement, judge
from fa2verify.verify.judgement.sampled import judge_sample_decoys, judge_sampled
from fa2verify.verify.judgement.truth import Truth
from fa2verify.verify.known_failures.ledger import BESIDES
from fa2verify.verify.relations.relation import Call
from fa2verify.verify.trial.call import OUT_OF_MEMORY, Bench, ContextLost, Fault, call, guarded
from fa2verify.verify.trial.crash import crash
from fa2verify.verify.trial.further_calls import Bits, Repeat, repeats

__all__ = ["Bench", "ContextLost", "attempt"]


def attempt(kernel: Kernel, problem: Problem, bench: Bench, test: str = "") -> Record:
    """Run `kernel` on `problem` and judge it; call it again where that can tell more.

    Whatever the kernel does short of taking its process down becomes the record's verdict. Running out of memory is a
    failure, except on a large problem (values "sampled"): that is `unsupported`, with what the allocator said. Raises
    ContextLost when the CUDA context is gone.
    """
    died = "the process died during the call"
    blank = crash(kernel.name, problem, "process died", died, precision=bench.precision, test=test)
    if reasons := kernel.unsupported(problem):
        return replace(blank, verdict="unsupported", rule=None, message="", reasons=reasons)
    judgement: Judgement
    first = call(kernel, problem, bench, blank)
    blank = replace(blank, seconds=first.seconds)
    if first.fault and not first.fault.beside:
        if problem.values == "sampled" and first.fault.rule == OUT_OF_MEMORY:
            return _without_memory(blank, first.fault)
        return _with(blank, first.fault)
    if problem.values == "sampled":
        judgement, truth = judge_sampled(problem, kernel, first.tensors, first.outputs, bench.precision)
    else:
        truth = Truth.of(problem, first.tensors, bench.precision)
        judgement = judge(problem, kernel, first.outputs, truth)
    if first.fault:
        return _with(blank, _both(first.fault, judgement))
    record = replace(
        blank,
        verdict="passed" if judgement.passed else "failed",
        rule=judgement.rule,
        message=judgement.message,
        errors=judgement.errors,
    )
    if not judgement.passed:
        return record
    if problem.values == "sampled":  # further calls would show what smaller problems show
        return replace(record, decoys=judge_sample_decoys(kernel, truth))
    assert isinstance(first.outputs, Outputs), "judged"
    bits = Bits.of(first.outputs)
    for repeat in repeats(kernel, problem, bench.device):
        if fault := _call_again(kernel, repeat, bench, blank, bits, truth):
            named = replace(fault, rule=f"{fault.rule}, {repeat.name}", message=f"{repeat.words}: {fault.message}")
            return _with(record, named)
    if bench.relations:
        related = Call.of(kernel, problem, first.tensors, first.outputs, truth)
        for relation in bench.relations:
            broken = guarded(partial(relation, related), bench, blank)
            if isinstance(broken, Fault):
                return _with(record, broken)
            if broken is not None:
                return _with(record, Fault("failed", *broken))
    return replace(record, decoys=judge_decoys(problem, kernel, truth))


def _both(fault: Fault, judgement: Judgement) -> Fault:
    """`fault`, and what is wrong with the outputs too: a fault that is known must not hide another."""
    if judgement.passed:
        return fault
    return replace(
        fault, rule=f"{fault.rule}{BESIDES}{judgement.rule}", message=f"{fault.message}; {judgement.message}"
    )


def _with(record: Record, fault: Fault) -> Record:
    return replace(record, verdict=fault.verdict, rule=fault.rule, message=fault.message)


def _without_memory(record: Record, fault: Fault) -> Record:
    """No answer is no wrong one: a large problem may take more than any device has, as an explicit mask of its scores.

    A drawn problem is small wherever it is tried, and a kernel that has no room for it is broken.
    """
    reason = f"The call ran out of memory on this large problem: {fault.message}"
    return replace(record, verdict="unsupported", rule=None, message="", reasons=(reason,))


def _call_again(kernel: Kernel, repeat: Repeat, bench: Bench, blank: Record, bits: Bits, truth: Truth) -> Fault | None:
    """What is wrong with one more call, by the same rules."""
    note = replace(blank, rule=f"process died, {repeat.name}", message=f"the process died, {repeat.words}")
    again = call(kernel, repeat.problem, bench, note)
    if again.fault:
        return again.fault
    if bits.same(again.outputs):
        return None  # they have just been judged
    judgement = judge(truth.problem, kernel, again.outputs, truth)
    if judgement.passed:
        return None
    assert judgement.rule is not None
    return Fault("failed", judgement.rule, judgement.message)
