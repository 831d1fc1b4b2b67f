"""A pytest plugin: large problems in small, on a CPU, for runs of the whole suite."""

import pytest

from fa2verify.kernels.problem import Dense, Problem


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before the suite looks at its options."""
    from fa2verify.kernels import sample
    from fa2verify.verify.run import large_problems
    from fa2verify.verify.suite import controller, worker

    sample.ELEMENTS = (2**10,)  # type: ignore[assignment]
    small = Problem(values="sampled", lengths=Dense(seqlen_q=99, seqlen_k=5), head_dim=16, direction="forward_backward")
    large_problems.LARGE_PROBLEMS = {"queries": small}  # type: ignore[assignment]
    for module in (controller, worker):
        module.not_tried = lambda device, profile, *, sanitized: ""
