"""Verdicts that need no call.

On a kernel that cannot say whether it takes a problem, since `unsupported` is foreign code too, and on a problem for
which the device has no room.
"""

from fa2verify.kernels import answers
from fa2verify.kernels.features import features
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.reports.record import Record
from fa2verify.verify.trial.crash import crash


def no_answer(kernel: Kernel, problem: Problem, precision: Precision, test: str = "") -> Record | None:
    """The verdict if `kernel` does not answer as it must when it is asked for `problem`; None if it does."""
    try:
        answers.unsupported(kernel, problem)
    except answers.AnswerError as error:
        return crash(kernel.name, problem, "unsupported() gave no answer", str(error), precision=precision, test=test)
    return None


def without_room(
    kernel: Kernel, problem: Problem, reasons: tuple[str, ...], precision: Precision, test: str = ""
) -> Record:
    """The verdict on a problem that the device has no room for."""
    return Record(
        kernel=kernel.name,
        problem=problem.to_dict(),
        features=features(problem),
        verdict="unsupported",
        reasons=reasons,
        reference=precision,
        test=test,
    )
