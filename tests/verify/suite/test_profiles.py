"""The profiles exist, are loaded by name, and are ours even where Hypothesis thinks that it runs in CI."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, settings

from fa2verify.verify.suite import profiles


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    name = settings.get_current_profile_name()
    yield
    settings.load_profile(name)


def config(profile: str | None) -> Any:
    return SimpleNamespace(getoption=lambda name: {"--hypothesis-profile": profile}[name])


@pytest.mark.parametrize(("given", "loaded"), [(None, "default"), ("quick", "quick"), ("deep", "deep")])
def test_a_profile_is_loaded(given: str | None, loaded: str) -> None:
    profiles.register()
    assert profiles.load(config(given)) == loaded
    assert settings.get_current_profile_name() == loaded
    assert settings.default is not None
    assert settings.default.max_examples == profiles.EXAMPLES[loaded]


@pytest.mark.parametrize("name", profiles.EXAMPLES)
def test_what_every_profile_has(name: str) -> None:
    profiles.register()
    profile = settings.get_profile(name)
    assert profile.deadline is None
    assert not profile.derandomize, "a run draws anew; --hypothesis-seed repeats one"
    assert not profile.report_multiple_bugs
    assert {Phase.reuse, Phase.generate, Phase.shrink} <= set(profile.phases)


def test_budgets_grow() -> None:
    assert profiles.EXAMPLES["quick"] < profiles.EXAMPLES["default"] < profiles.EXAMPLES["deep"]
    assert profiles.DEFAULT in profiles.EXAMPLES


def test_an_unknown_profile() -> None:
    message = "--hypothesis-profile=nightly: there is no such profile; ours are quick, default, deep"
    with pytest.raises(pytest.UsageError, match=message):
        profiles.load(config("nightly"))
