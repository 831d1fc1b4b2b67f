"""The tuning script of the CUDA kernels without a GPU: what it would try and refuse, how it races, when it ends."""

import json
import math
import time
from pathlib import Path
from typing import get_args

import pytest
import torch

from fa2verify.kernels.cuda import gpu, gpu_compiler, tune
from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.cuda.candidates import Tuned, blocks_a_multiprocessor, candidates, loads_a_product
from fa2verify.kernels.cuda.configuration import PADDED_HEAD_DIMS, SHARED_KB, Feature, Tiles, one_pass_tiles, variant
from fa2verify.kernels.problem import Dense, Problem

SMALL = Problem(
    lengths=Dense(seqlen_q=40, seqlen_k=40), head_dim=32, causal="bottom_right", direction="forward_backward"
)
OTHER = Tiles(32, 64, 4, stages=1, spread=(2, 2, 2))


def _wall(run: tune.Launch, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) * 1e3 / repeats


@pytest.mark.parametrize("shared_kb", SHARED_KB)
@pytest.mark.parametrize("head_dim", PADDED_HEAD_DIMS)
@pytest.mark.parametrize("kernel", get_args(Tuned))
def test_candidates_fit_and_begin_with_the_table(kernel: Tuned, head_dim: int, shared_kb: int) -> None:
    found = list(candidates(kernel, head_dim, shared_kb))
    assert 1 <= len(found) <= 20
    assert len(set(found)) == len(found)
    for tiles in found:
        one = variant(kernel, "float16", head_dim, Feature(0), tiles=tiles)
        assert one.shared_bytes <= shared_kb * 1024
        assert one.threads in (64, 128, 256)
    if kernel != "backward" or one_pass_tiles(head_dim, shared_kb):
        assert found[0] == variant(kernel, "float16", head_dim, Feature(0), shared_kb).tiles


def test_candidates_hold_what_may_win() -> None:
    # FlashAttention-2's spread of eight warps over 64 queries and 128 keys of head_dim 128, and what it has at 256.
    assert Tiles(64, 128, 8, stages=2, spread=(4, 4, 2)) in list(candidates("backward", 128, 227))
    assert Tiles(64, 64, 8, stages=2, spread=(4, 2, 2)) in list(candidates("backward", 256, 227))
    assert Tiles(128, 64, 8) in list(candidates("forward", 256, 227))
    assert Tiles(128, 48) in list(candidates("forward", 64, 227))
    assert Tiles(128, 48) not in list(candidates("forward", 32, 227)), "128 threads copy 32 rows of 4 chunks at once"


def test_loads_are_those_of_the_source() -> None:
    # Four warps, each 32 keys x 32 queries: four steps of 2 + 2 loads for S^T, and for dP^T; two of 4 for dV, and for
    # dK, with nothing to load on the left; eight of 1 + 2 for dQ. 4 * 72 loads for 640 products.
    assert loads_a_product(Tiles(32, 128, 4, stages=2, spread=(4, 4, 2)), 64) == 4 * 72 / 640


def test_blocks_are_bounded_by_memory_and_by_registers() -> None:
    assert blocks_a_multiprocessor(113 * 1024, 128, 255, 227) == 2
    assert blocks_a_multiprocessor(114 * 1024, 128, 255, 227) == 1
    assert blocks_a_multiprocessor(16 * 1024, 256, 128, 227) == 2


def test_a_candidate_off_the_table_is_right() -> None:
    assert tune.defect("backward", 32, OTHER, "cpu") == ""


def test_a_wrong_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tune.Bench.whole

    def five_percent_off(bench: tune.Bench, kernel: Tuned, tiles: Tiles) -> None:
        original(bench, kernel, tiles)
        dk = bench.named["dk"]
        assert dk is not None
        dk.mul_(1.05)

    def without_dq(bench: tune.Bench, kernel: Tuned, tiles: Tiles) -> None:
        bench.run(kernel, tiles)

    tune.defect.cache_clear()
    monkeypatch.setattr(tune.Bench, "whole", five_percent_off)
    assert "dk is off by" in tune.defect("backward", 32, OTHER, "cpu")
    tune.defect.cache_clear()
    monkeypatch.setattr(tune.Bench, "whole", without_dq)
    assert "dq is off by nan" in tune.defect("backward", 32, OTHER, "cpu")
    tune.defect.cache_clear()


@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_a_race_times_what_is_right_and_says_what_is_not(kernel: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = variant(kernel, "bfloat16", 32, Feature(0)).tiles, Tiles(64, 64, 2)
    monkeypatch.setattr(tune, "candidates", lambda *_: iter((bad, good)))
    monkeypatch.setattr(tune, "defect", lambda kernel, head_dim, tiles, device: "too far" if tiles == bad else "")
    monkeypatch.setattr(tune, "_MIN_MS", 1e-6)
    monkeypatch.setattr(tune, "_FAR", math.inf)
    monkeypatch.setattr(tune, "_time", _wall)
    timings = tune.race(kernel, SMALL, 227, time.monotonic(), "cpu")
    assert {timing.tiles for timing in timings[:2]} == {None, good}
    assert timings[0].milliseconds <= timings[1].milliseconds
    assert (timings[2].tiles, timings[2].failure) == (bad, "too far")
    assert math.isnan(timings[2].milliseconds)
    products = 2.5 if kernel == "backward" else 1.0
    assert timings[0].tflops * timings[0].milliseconds == pytest.approx(products * 2 * 40 * 40 * 32 / 1e9)


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_a_run_writes_what_it_has_when_its_time_is_up(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timing = tune.Timing("forward", 128, True, 4096, None, 2.0, 100.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(CudaBackend, "unavailable", lambda self, device: ())
    monkeypatch.setattr(gpu, "shared_kb", lambda device: 227)
    monkeypatch.setattr(tune, "race", lambda *_: [timing])
    out = tmp_path / "tune.json"
    assert tune.main(["--kernel", "forward", "--seconds", str(seconds), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    if seconds:
        assert len(json.loads(out.read_text())["timings"]) == 3 * 2  # head_dims, masks
        assert "torch flash" in printed
    else:
        assert "time is up: 6 of 6 races not run" in printed


def test_without_a_gpu_it_lists_and_says_why_it_cannot_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 2
    assert "nothing to time on: torch sees no GPU" in capsys.readouterr().err
    monkeypatch.setattr(gpu_compiler, "unavailable", lambda: ("no NVRTC",))
    assert tune.main(["--list", "--head-dim", "64", "128"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for kernel in ("forward", "backward"):
        for head_dim in (64, 128):
            assert sum(f"{kernel} head_dim {head_dim}," in line for line in lines) == 1
    assert "  32 x 128, 4 warps, 2 stages, spread 4/4/2" in "\n".join(lines)
