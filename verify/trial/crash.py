"""The verdict that a kernel crashed: what each trial begins with, so that it holds if nothing better is reached."""

from fa2verify.kernels.features import features
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.reports.record import Record


def crash(
    kernel: str,
    problem: Problem,
    rule: str | None = None,
    message: str = "",
    *,
    precision: Precision = "fp64",
    test: str = "",
) -> Record:
    """The record of it.

    kernel     its name
    rule       in a few words, what happened
    precision  of the reference, where outputs are judged
    test       the test that drew the problem
    """
    return Record(
        kernel=kernel,
        problem=problem.to_dict(),
        features=features(problem),
        verdict="crashed",
        rule=rule,
        message=message,
        reference=precision,
        test=test,
    )
