"""Hypothesis profiles: how many problems each kernel is judged on.

Hypothesis loads a profile of its own when it thinks that it runs in CI, derandomised and without a database. Ours are
registered and loaded explicitly, so that a run is the same everywhere.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import InvalidArgument

# Problems per kernel, dense and varlen together: forward alone; forward and backward get twice as many.
EXAMPLES = {"quick": 16, "default": 120, "deep": 20_000}
DEFAULT = "default"


def register() -> None:
    """Make the profiles known to Hypothesis."""
    for name, examples in EXAMPLES.items():
        settings.register_profile(
            name,
            max_examples=examples,
            deadline=None,  # a kernel's first call compiles; a hang ends by --problem-timeout
            derandomize=False,
            report_multiple_bugs=False,
            print_blob=False,
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
            # Drawing is quick, running a kernel is not: these three time the kernel, not the strategy.
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
        )


def load(config: pytest.Config) -> str:
    """Load the profile that the command line names, else ours named "default"; gives its name.

    Raises pytest.UsageError for a profile that nobody has registered.
    """
    name: str = config.getoption("--hypothesis-profile") or DEFAULT
    try:
        settings.load_profile(name)
    except InvalidArgument:
        known = ", ".join(EXAMPLES)
        raise pytest.UsageError(f"--hypothesis-profile={name}: there is no such profile; ours are {known}") from None
    return name
