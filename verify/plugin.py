"""The pytest plugin behind `pytest -n auto verify`: options, profile, and this process' part in the run.

The controlling process plans, watches over workers and writes the report (`suite.controller`); each worker draws, tries
and records (`suite.worker`). Without xdist one process is both. What they share lies in the report folder, a file a
worker. Benchmarks are runs of their own (`fa2verify.benchmarks.plugin`).
"""

import os

import pytest

from fa2verify.verify.entry import asked
from fa2verify.verify.suite import devices, options, profiles

# Before Hypothesis' own plugin looks for the profile that the command line names.
profiles.register()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take up this process' part, if the suite is what runs."""
    if asked(config) != "verify":
        return
    is_worker = hasattr(config, "workerinput")
    if is_worker and config.getoption("--device") != "cpu":
        # Before anything asks CUDA for its devices: it reads the variable once.
        devices.pin(int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")), devices.visible_devices())
    # Workers are as many as cores; under Triton's interpreter numpy's BLAS would start a thread a core in each of them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    profile = profiles.load(config)

    # Imported here: torch, Triton and the kernels take seconds, and the device must be pinned first.
    from fa2verify.verify.suite.controller import Controller
    from fa2verify.verify.suite.worker import Worker

    if is_worker:
        config.pluginmanager.register(Worker.of_xdist(config), "fa2verify-worker")
        return
    controller = Controller(config, profile)
    config.pluginmanager.register(controller, "fa2verify-controller")
    if not config.getoption("numprocesses", None):
        config.pluginmanager.register(Worker(config, controller.run, "main"), "fa2verify-worker")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Workers for `-n auto` on a machine with GPUs; xdist's own answer elsewhere."""
    visible = devices.visible_devices() if config.getoption("--device") != "cpu" else ()
    return devices.worker_count(visible, devices.cores()) if visible else None
