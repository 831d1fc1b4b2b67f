"""Our CUDA kernels compile for GPUs that are not there. `build_evidence` alone goes through every variant."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import nvrtc

from fa2verify.kernels.cuda import build_evidence, gpu_compiler
from fa2verify.kernels.cuda.build_evidence import SHARED_MEMORY, Evidence, Spill, evidence, main, variants
from fa2verify.kernels.cuda.configuration import NAMES, PADDED_HEAD_DIMS, SHARED_KB, Feature, one_pass_tiles, variant
from fa2verify.kernels.cuda.gpu_compiler import compile_cached, compile_verbose
from fa2verify.kernels.cuda.source import FOLDER, gpu_source

ALL = Feature.SOFTCAP | Feature.ALIBI | Feature.DROPOUT | Feature.NARROW


def made(**fields: Any) -> Evidence:
    plain: dict[str, Any] = {
        "kernel": "forward",
        "arch": "sm_86",
        "dtype": "float16",
        "head_dim": 64,
        "features": (),
        "registers": 128,
        "spill_stores": 0,
        "spill_loads": 0,
        "shared": 99 * 1024,
        "size": 1,
    }
    return Evidence(**(plain | fields))


def test_the_compiler_is_there() -> None:
    assert gpu_compiler.unavailable() == ()


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_compiles(name: Any, arch: str) -> None:
    found = evidence(variant(name, "bfloat16", 64, Feature(0)), arch)
    assert found.defects == ()
    assert 16 <= found.registers <= 255


@pytest.mark.parametrize("name", ["backward", "backward_dkdv"])
def test_every_feature_compiles_together(name: Any) -> None:
    found = evidence(variant(name, "float16", 128, ALL, SHARED_MEMORY["sm_80"]), "sm_80")
    assert found.features == ("SOFTCAP", "ALIBI", "DROPOUT", "NARROW")
    assert found.defects == ()


def test_ptxas_is_asked_for_the_level_of_the_tiles() -> None:
    chosen = variant("forward", "bfloat16", 32, Feature(0))
    codes = [
        compile_verbose(replace(chosen, tiles=replace(chosen.tiles, level=level)), "sm_90")[0].code for level in (1, 3)
    ]
    assert codes[0] != codes[1]
    assert codes[1] == compile_verbose(chosen, "sm_90")[0].code


def test_a_level_is_for_plain_scores() -> None:
    plain, softcap = (variant("backward", "bfloat16", 256, one, 227).tiles for one in (Feature(0), Feature.SOFTCAP))
    assert plain.level < softcap.level == 3
    assert replace(plain, level=3) == softcap


def test_a_compiled_variant_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA2VERIFY_CACHE", str(tmp_path))
    gpu_compiler._cache.cache_clear()
    try:
        chosen = variant("preprocess", "float16", 32, Feature(0))
        first = compile_cached(chosen, "sm_80").code
        files = [path for path in (tmp_path / "cubin").rglob("*") if path.is_file() and path.read_bytes() == first]
        assert len(files) == 1
        files[0].write_bytes(b"what is on disk")
        gpu_compiler._cache.cache_clear()
        assert compile_cached(chosen, "sm_80").code == b"what is on disk"
        assert compile_cached(chosen, "sm_90").code != b"what is on disk"
        other = variant("preprocess", "bfloat16", 32, Feature(0))
        assert compile_cached(other, "sm_80").code != b"what is on disk"
    finally:
        gpu_compiler._cache.cache_clear()


def test_what_ptxas_says_is_said_of_every_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = variant("preprocess", "float16", 32, Feature(0))
    first, second = (evidence(chosen, "sm_80") for _ in range(2))
    assert first == second
    # Without a driver NVRTC has no cache, and what is above cannot tell.
    for version, fresh in (((12, 8), False), ((12, 9), True), ((13, 0), True)):
        monkeypatch.setattr(nvrtc, "nvrtcVersion", lambda version=version: (nvrtc.nvrtcResult.NVRTC_SUCCESS, *version))
        assert (b"--no-cache" in gpu_compiler._options("sm_80", 3, verbose=True).as_bytes("nvrtc")) == fresh
        assert b"--no-cache" not in gpu_compiler._options("sm_80", 3, verbose=False).as_bytes("nvrtc")


def test_a_gpu_source_has_no_emulator_and_no_headers() -> None:
    for name in NAMES:
        source = gpu_source(variant(name, "float16", 64, Feature(0)))
        assert "#include" not in source.replace('#include "machine_host.hpp"', "")
        assert "ucontext" not in source
        assert "namespace emulator" not in source


def test_instructions_are_in_the_machine_alone() -> None:
    for path in (*FOLDER.glob("*.cuh"), *FOLDER.glob("*.hpp")):
        text = path.read_text()
        if path.name not in ("machine_gpu.cuh", "fibers.hpp"):
            assert "asm" not in text.replace("assembly", ""), path.name
        if not path.name.startswith("machine") and path.suffix == ".cuh":
            for word in ("__sync", "__shfl", "__shared__", "threadIdx", "blockIdx"):
                assert word not in text, (path.name, word)


def test_features_of_the_table_are_those_of_the_source() -> None:
    text = (FOLDER / "call.cuh").read_text()
    for feature in Feature:
        assert f"constexpr unsigned {feature.name} = {feature.value};" in text


def test_a_spill_needs_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_evidence, "SPILLS", ())
    assert made().defects == ()
    assert "no entry of SPILLS" in made(spill_stores=4).defects[0]
    monkeypatch.setattr(build_evidence, "SPILLS", (Spill("forward", (64,), 8, "because"),))
    assert made(spill_stores=4, spill_loads=4).defects == ()
    assert made(spill_stores=4, spill_loads=8).defects
    assert made(spill_stores=4, head_dim=128).defects
    assert made(spill_stores=4, kernel="backward_dq").defects


def test_a_block_that_does_not_fit_is_a_defect() -> None:
    assert made(shared=99 * 1024 + 1).defects == ("takes 101,377 bytes of shared memory; sm_86 gives a block 101,376",)
    assert made(shared=99 * 1024 + 1, arch="sm_80").defects == ()


@pytest.mark.parametrize("shared_kb", SHARED_KB)
def test_every_variant_is_every_kernel_and_width(shared_kb: int) -> None:
    some, every = (list(variants(NAMES, PADDED_HEAD_DIMS, shared_kb=shared_kb, every=every)) for every in (False, True))
    wanted = {
        (name, head_dim, dtype)
        for name, head_dim, dtype in product(NAMES, PADDED_HEAD_DIMS, ("float16", "bfloat16"))
        if name not in ("backward", "postprocess") or one_pass_tiles(head_dim, shared_kb)
    }
    assert len(wanted) >= len(NAMES) * len(PADDED_HEAD_DIMS) * 2 - 4
    for listed in (some, every):
        assert len(set(listed)) == len(listed)
        assert {(one.name, one.head_dim, one.dtype) for one in listed} == wanted
    assert set(some) <= set(every)


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evidence.json"
    arguments = ["--arch", "sm_80", "--kernel", "preprocess", "--head-dim", "32", "--jobs", "1", "--json", str(file)]
    assert main(arguments) == 0
    written = json.loads(file.read_text())
    assert len(written) == 4
    assert {one["dtype"] for one in written} == {"float16", "bfloat16"}
    assert {(one["kernel"], one["arch"], one["head_dim"]) for one in written} == {("preprocess", "sm_80", 32)}
    assert all(one["registers"] > 0 and one["spill_loads"] == 0 for one in written)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert main([*arguments, "--dtype", "bfloat16"]) == 0
    assert {one["dtype"] for one in json.loads(file.read_text())} == {"bfloat16"}
