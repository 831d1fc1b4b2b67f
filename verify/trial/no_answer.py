"""The verdict on a kernel that cannot say whether it takes a problem: `unsupported` is foreign code too."""

from fa2verify.kernels import answers
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
