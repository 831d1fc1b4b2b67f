"""The problems that take every variant: that they do, as the emulator and the build evidence see it."""

import pytest
from torch import Tensor

from fa2verify.kernels.cuda import emulator, every_variant
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
