"""What pytest loads wherever fa2verify is installed: only enough to notice that one of its suites is asked for.

A stranger's test run must not get our options, our profiles or our imports, so the plugin proper is loaded only if an
argument names a suite: `pytest --pyargs fa2verify.verify` or `fa2verify.benchmarks`, or its folder.
"""

from pathlib import Path

import pytest

# Folder to plugin. The folders lie beside each other, in a checkout as where they are installed.
SUITES = {"verify": "fa2verify.verify.plugin", "benchmarks": "fa2verify.benchmarks.plugin"}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Load the plugin of each suite that is among the arguments."""
    for suite, plugin in SUITES.items():
        if any(names_suite(suite, argument, early_config.rootpath) for argument in args):
            early_config.pluginmanager.import_plugin(plugin)


def asked(config: pytest.Config) -> str | None:
    """The suite that this run is of; None: neither. Raises pytest.UsageError if both are asked for."""
    named = {
        suite: argument for suite in SUITES for argument in config.args if names_suite(suite, argument, config.rootpath)
    }
    if len(named) > 1:
        raise pytest.UsageError(f"{', '.join(named.values())}: benchmarks and verification are runs of their own")
    return next(iter(named), None)


def names_suite(suite: str, argument: str, checkout: Path) -> bool:
    """Whether a command-line argument is that suite or a part of it, installed or in a checkout of ours."""
    package = f"fa2verify.{suite}"
    place = argument.partition("::")[0]
    if place == package or place.startswith(package + "."):
        return True
    try:
        path = Path(place).resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, for example an option's value
        return False
    folders = [Path(__file__).resolve().parents[1] / suite]
    root = checkout.resolve()
    if _is_ours(root):
        folders.append(root / suite)
    return any(folder in (path, *path.parents) for folder in folders)


def _is_ours(checkout: Path) -> bool:
    """Whether it holds this file; a stranger's checkout may have a folder called verify as well."""
    twin = checkout / "verify" / Path(__file__).name
    return twin.is_file() and SUITES["verify"] in twin.read_text(encoding="utf-8", errors="replace")
