"""The problems that take every variant: that they do, as the emulator and the build evidence see it."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda import emulator, every_variant, gpu
from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.cuda.build_evidence import variants
from fa2verify.kernels.cuda.call import CallStructure
from fa2verify.kernels.cuda.configuration import NAMES, PADDED_HEAD_DIMS, SHARED_KB, Feature, Variant
from fa2verify.kernels.cuda.every_variant import Case, call, cases


@pytest.mark.parametrize("shared_kb", SHARED_KB)
def test_they_are_what_the_build_evidence_compiles(shared_kb: int) -> None:
    """But for attention weights without dropout, which nobody can ask for."""
    taken = set[Variant]().union(*(case.variants(head_dim, shared_kb) for head_dim, case in cases()))
    compiled = variants(NAMES, PADDED_HEAD_DIMS, shared_kb=shared_kb)
    assert taken == {one for one in compiled if one.name != "probabilities" or one.features & Feature.DROPOUT}


OF_32 = [case for head_dim, case in cases() if head_dim == 32 and case.problem.dtype == "float16"]


@pytest.mark.parametrize("case", OF_32)
def test_a_call_launches_them(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator's variants have every feature at once; which features a call has is in its structure."""
    launched: set[tuple[str, int]] = set()

    def launch(chosen: Variant, _blocks: int, structure: CallStructure, _named: dict[str, Tensor]) -> None:
        launched.add((chosen.name, structure.features))

    monkeypatch.setattr(emulator, "launch", launch)
    call(case.problem, "cpu")
    assert {name for name, _ in launched} == {one.name for one in case.variants(32, emulator.SHARED_KB)}
    assert {features for name, features in launched if name not in ("preprocess", "postprocess")} == {case.features}


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert every_variant.main([]) == 2
    assert capsys.readouterr().err == "nothing to call them on: torch sees no GPU\n"


def test_first_calls_are_written_and_what_was_not_launched_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a GPU that is not there: of 32 and 96 all that is asked for but one variant."""
    of_both = set[Variant]().union(*(case.variants(d, 227) for d, case in cases() if d in (32, 96)))
    lost = max(of_both, key=lambda one: one.expression)
    seconds = {one: 0.25 + number for number, one in enumerate(of_both - {lost})}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(CudaBackend, "unavailable", lambda _self, _device: ())
    monkeypatch.setattr(gpu, "shared_kb", lambda _device: 227)
    monkeypatch.setattr(gpu, "load_seconds", lambda: seconds)
    called: list[int] = []
    monkeypatch.setattr(every_variant, "call", lambda problem, _device: called.append(problem.head_dim))
    file = tmp_path / "first-calls.jsonl"
    assert every_variant.main(["--head-dim", "32", "96", "--first-calls", str(file)]) == 1
    assert set(called) == {28, 32, 92, 96}
    assert capsys.readouterr().out.splitlines()[1:] == [f"  {lost.expression}"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["ms"] for line in lines] == [1e3 * each for each in seconds.values()]
    first = next(iter(seconds))
    assert Feature(sum(Feature[name] for name in lines[0].pop("features"))) == first.features
    assert lines[0] == {"kernel": first.name, "head_dim": first.head_dim, "dtype": first.dtype, "ms": 250.0}
