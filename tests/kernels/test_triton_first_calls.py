"""The script that shows first calls: what it makes of what its processes print, and of a machine without a GPU."""

import pytest

from fa2verify.kernels.triton.first_calls import faults, main

RACE = "forward, head_dim 64, on NVIDIA Something: raced 6 of 6 in 3.1 s, took  64 x  64, 4 warps, 3 stages\n"
TAKE = "forward, head_dim 64, on NVIDIA Something: took  64 x  64, 4 warps, 3 stages, as /tiles/x.json says\n"
BITS = "head_dim 64: first forward 4.0 s, first backward 8.0 s, 0 MiB more reserved\nbits of head_dim 64: 0123\n"


def test_one_race_that_all_take_is_right() -> None:
    assert faults([RACE + BITS], TAKE + BITS, 1) == []
    assert faults([TAKE + BITS, RACE + BITS], TAKE + BITS, 1) == []


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        ([TAKE + BITS], TAKE + BITS, "1 races were to be run"),
        ([RACE + BITS, RACE + BITS], TAKE + BITS, "1 races were to be run"),
        ([RACE + BITS], RACE + BITS, "the later process raced again: ['forward, head_dim 64']"),
        ([RACE + BITS], TAKE + BITS.replace("0123", "4567"), "the processes computed other bits"),
        ([RACE], TAKE, "the processes computed other bits"),
    ],
)
def test_anything_else_is_said(first: list[str], later: str, said: str) -> None:
    (fault,) = faults(first, later, 1)
    assert fault.startswith(said)


def test_a_machine_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "needs a GPU" in capsys.readouterr().err
