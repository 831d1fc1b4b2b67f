"""What pytest loads wherever fa2verify is installed: only enough to notice that its suite is asked for.

A stranger's test run must not get our options, our profiles or our imports, so the plugin proper is loaded only if an
argument names the suite: `pytest --pyargs fa2verify.verify`, or its folder.
"""

from pathlib import Path

import pytest

PACKAGE = "fa2verify.verify"
PLUGIN = "fa2verify.verify.plugin"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Load the plugin if the suite is among the arguments."""
    if any(names_suite(argument, early_config.rootpath) for argument in args):
        early_config.pluginmanager.import_plugin(PLUGIN)


def names_suite(argument: str, checkout: Path) -> bool:
    """Whether a command-line argument is the suite or a part of it, installed or in a checkout of ours."""
    place = argument.partition("::")[0]
    if place == PACKAGE or place.startswith(PACKAGE + "."):
        return True
    try:
        path = Path(place).resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, for example an option's value
        return False
    suites = [Path(__file__).resolve().parent]
    ours = checkout.resolve() / "verify"
    if _is_ours(ours):
        suites.append(ours)
    return any(suite in (path, *path.parents) for suite in suites)


def names_benchmarks(argument: str, checkout: Path) -> bool:
    """Whether a command-line argument is a module of benchmarks, `bench_*`, of the suite."""
    place = argument.partition("::")[0]
    module = place.removesuffix(".py").replace("\\", "/").rpartition("/")[2].rpartition(".")[2]
    return module.startswith("bench_") and names_suite(argument, checkout)


def _is_ours(folder: Path) -> bool:
    """Whether it holds this file; a stranger's folder may be called verify as well."""
    twin = folder / Path(__file__).name
    return twin.is_file() and PLUGIN in twin.read_text(encoding="utf-8", errors="replace")
