"""A worker's part: which tests there are, and running one."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import cast

import pytest
import torch
from hypothesis import settings

from fa2verify.kernels.registry import Registered, select
from fa2verify.reports.record import Run, from_json
from fa2verify.reports.store import Writer
from fa2verify.verify.known_failures.ledger import Place
from fa2verify.verify.run import plan
from fa2verify.verify.run.campaign import AlreadyFound, Campaign, failure_text
from fa2verify.verify.run.findings import Findings
from fa2verify.verify.run.journal import Journal
from fa2verify.verify.run.large_problems import not_tried
from fa2verify.verify.run.quarantine import Quarantine
from fa2verify.verify.run.room import Crowded
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite import devices, options
from fa2verify.verify.suite.controller import RUN_KEY, expected, spec_of
from fa2verify.verify.trial.sanitizer import Sanitizer


class Worker:
    """Hooks and fixtures of a process that tries kernels.

    run   what this process is part of
    name  "gw0", ... under xdist, else "main"
    """

    def __init__(self, config: pytest.Config, run: Run, name: str, workers: int = 1) -> None:
        self._config, self._run, self._name = config, run, name
        self._directory = config.getoption("--report-dir").absolute()
        self._open = ExitStack()
        self._named = bool(config.getoption("--kernel"))
        self._kernels = select(config.getoption("--kernel"))
        self._ledger = expected(config, self._kernels).at(Place.here(run.device))
        torch.set_num_threads(max(1, devices.cores() // workers))
        # An fp32 reference must be fp32, and the baseline PyTorch's as it comes.
        torch.backends.cuda.matmul.allow_tf32 = False

    @classmethod
    def of_xdist(cls, config: pytest.Config) -> "Worker":
        """The worker that xdist started this process as."""
        given = config.workerinput  # type: ignore[attr-defined]
        return cls(config, cast(Run, from_json(given[RUN_KEY])), given["workerid"], given["workercount"])

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test a part of the plan, and one a known failure."""
        taking_part = [
            registered
            for registered in self._kernels
            if not plan.left_out(registered, torch.device(self._run.device), named=self._named)
        ]
        if "part" in metafunc.fixturenames:
            parts = [part for registered in taking_part for part in self._parts(registered, metafunc)]
            metafunc.parametrize("part", parts, ids=[part.label for part in parts])
        if "large" in metafunc.fixturenames:
            sanitized = bool(self._config.getoption("--sanitizer"))
            left_out = not_tried(self._run.device, self._run.profile, sanitized=sanitized)
            large = [] if left_out else [plan.large_case(registered, self._ledger) for registered in taking_part]
            metafunc.parametrize("large", large, ids=[case.label for case in large])
        if "known" in metafunc.fixturenames:
            known = [case for registered in taking_part for case in plan.known_cases(registered, self._ledger)]
            metafunc.parametrize("known", known, ids=[case.label for case in known])

    def _parts(self, registered: Registered, metafunc: pytest.Metafunc) -> list[plan.Part]:
        examples, size = settings().max_examples, SIZES[self._run.device]
        if metafunc.function.__name__ == "test_relations":
            return plan.related_parts(registered, examples=examples, size=size)
        varlen = metafunc.function.__name__ == "test_varlen"
        return plan.parts(
            registered,
            metafunc.module.DIRECTION,
            varlen=varlen,
            examples=examples,
            size=size,
            sanitized=bool(self._config.getoption("--sanitizer")),
        )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out tests that no kernel takes part in, and keep this shard's."""
        kept = [item for item in items if not _without_part(item)]
        shard = options.shard(config)
        if shard is not None:
            kept = [item for position, item in enumerate(kept) if shard.takes(position)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = _slow_first(kept)

    @cached_property
    def campaign(self) -> Campaign:
        """This process' campaign, its records open for writing until the session ends."""
        path = self._directory / f"records-{self._name}.jsonl"
        fresh = not path.exists()
        writer = self._open.enter_context(Writer(path))
        if fresh:
            writer.write(self._run)
        return Campaign(
            writer=writer,
            journal=Journal(self._directory, self._name),
            quarantine=Quarantine(self._directory),
            findings=Findings(self._directory),
            ledger=self._ledger,
            specs=tuple(self._config.getoption("--kernel")),
            device=self._run.device,
            precision=options.precision(self._config),
            timeout=self._config.getoption("--problem-timeout"),
            seed=self._run.seed,
            sanitizer=self._sanitizer(),
        )

    def _sanitizer(self) -> Sanitizer | None:
        asked = options.sanitizer(self._config)
        if asked is None:
            return None
        specs, timeout = self._config.getoption("--kernel"), self._config.getoption("--problem-timeout")
        return Sanitizer(*asked, tuple(specs), self._run.device, timeout)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Close the records, which the controller is about to merge."""
        self._open.close()

    @pytest.fixture
    def verify_part(self, request: pytest.FixtureRequest) -> Callable[[plan.Part], None]:
        """Judge a part's kernel on its problems; fails the test with the smallest problem that fails."""

        def verify(part: plan.Part) -> None:
            kernel = part.registered.kernel
            spec = spec_of(kernel.name, self._kernels)
            try:
                failing = self.campaign.verify(
                    kernel, part.problems, part.examples, request.node.nodeid, related=part.related
                )
                text = failing and failure_text(failing, spec)
            except AlreadyFound as known:
                text = f"{known}, as in {known.record.test}"
            except Crowded as full:
                text = str(full)
            if text:
                pytest.fail(text, pytrace=False)

        return verify

    @pytest.fixture
    def verify_known(self, request: pytest.FixtureRequest) -> Callable[[plan.KnownCase], None]:
        """Try a known failure's smallest problem; fails the test if it does not fail as the ledger says."""

        def verify(case: plan.KnownCase) -> None:
            kernel = case.registered.kernel
            try:
                wrong = self.campaign.confirm(case.entry, kernel, request.node.nodeid)
            except Crowded as full:
                pytest.fail(str(full), pytrace=False)
            if wrong is not None:
                pytest.fail(failure_text(wrong, spec_of(kernel.name, self._kernels)), pytrace=False)

        return verify

    @pytest.fixture
    def verify_large(self, request: pytest.FixtureRequest) -> Callable[[plan.LargeCase], None]:
        """Try a kernel's large problems; fails the test with those that fail."""

        def verify(case: plan.LargeCase) -> None:
            kernel = case.registered.kernel
            failing = self.campaign.verify_large(kernel, case.problems, request.node.nodeid)
            if failing:
                spec = spec_of(kernel.name, self._kernels)
                pytest.fail("\n".join(failure_text(record, spec) for record in failing), pytrace=False)

        return verify


def _slow_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """What takes minutes begins at once, so that no run ends by waiting for it.

    Large problems come first and together, on few workers: they wait for one another. Kernels that compile for each
    problem alternate with the others, since xdist begins by giving a worker two neighbours.
    """
    large = [item for item in items if "large" in getattr(item, "fixturenames", ())]
    slow = [item for item in items if item not in large and _compiles_often(item)]
    quick = [item for item in items if item not in large and item not in slow]
    pairs = [item for pair in zip(slow, quick, strict=False) for item in pair]
    return large + pairs + slow[len(quick) :] + quick[len(slow) :]


def _compiles_often(item: pytest.Item) -> bool:
    part = _given(item).get("part")
    return isinstance(part, plan.Part) and part.registered.kernel.budget < 1


def _without_part(item: pytest.Item) -> bool:
    """Whether pytest made the item for an empty list of parts, known failures or kernels."""
    given = _given(item)
    kinds = {"part": plan.Part, "known": plan.KnownCase, "large": plan.LargeCase}
    return any(name in given and not isinstance(given[name], kind) for name, kind in kinds.items())


def _given(item: pytest.Item) -> dict[str, object]:
    """The parameters of an item, by name."""
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params
