"""What the suite's options accept; that the command line refuses the rest is tests/verify/test_suite_usage.py."""

import argparse
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fa2verify.verify.suite import options
from fa2verify.verify.suite.options import Shard


@pytest.mark.parametrize("text", ["1/1", "1/2", "2/2", "7/12"])
def test_a_shard_is_read(text: str) -> None:
    index, count = map(int, text.split("/"))
    assert Shard.parse(text) == Shard(index, count)


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/-2", "1/2/3", "a/b", "1.0/2", "1/", "/2", "½/1", "1 of 2", "²/2"]
)
def test_a_malformed_shard_says_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--shard=.*: must be i/n with 1 <= i <= n, for example 2/8$") as caught:
        Shard.parse(text)
    assert str(caught.value).startswith(f"--shard={text}:")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_together_are_the_whole_and_apart_are_disjoint(count: int) -> None:
    taken = [[at for at in range(20) if Shard(index, count).takes(at)] for index in range(1, count + 1)]
    assert sorted(at for shard in taken for at in shard) == list(range(20))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def config(**given: Any) -> Any:
    return SimpleNamespace(getoption=lambda name: given[name.removeprefix("--").replace("-", "_")])


def test_shard_of_the_command_line() -> None:
    assert options.shard(config(shard=None)) is None
    assert options.shard(config(shard="2/3")) == Shard(2, 3)
    with pytest.raises(pytest.UsageError, match="--shard=4/3: must be i/n"):
        options.shard(config(shard="4/3"))


@pytest.mark.parametrize(
    ("wanted", "present", "expected"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_device(monkeypatch: pytest.MonkeyPatch, wanted: str, present: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert options.chosen_device(config(device=wanted)) == expected


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.UsageError, match=r"^--device=cuda: torch sees no CUDA device here$"):
        options.chosen_device(config(device="cuda"))


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.5", 0.5), ("3600", 3600.0)])
def test_seconds(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "1e99"])
def test_seconds_that_no_alarm_can_be_set_to(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of seconds above 0, at most a day"):
        options.seconds(text)
