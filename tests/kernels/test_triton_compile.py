"""The Triton kernels compile for GPUs and fit them. `compile_check` alone goes through the whole table."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

# In a process of its own: the one that runs the tests may interpret, and a process has one way. It imports triton
# first, which is the case in which an interpreter cannot be had any more.
_SCRIPT = """
import json, sys
import triton
import torch
from fa2verify.kernels.triton.compile_check import Variant, compile_variant, defects
from fa2verify.kernels.triton.configuration import Configuration
from fa2verify.kernels.triton.kernel import TritonKernel

refusal = TritonKernel().unavailable(torch.device("cpu"))
compiled = []
for fields in json.loads(sys.argv[1]):
    if tuned := fields.pop("tuned", None):
        fields["tuned"] = Configuration(*tuned)
    variant = Variant(**fields)
    resources = compile_variant(variant)
    compiled.append({"registers": resources.registers, "wide": resources.wide, "defects": defects(variant, resources)})
print(json.dumps({"refusal": refusal, "compiled": compiled}))
"""

_EVERYTHING = {"window": True, "softcap": True, "alibi": True, "dropout": True}
_VARIANTS: list[dict[str, Any]] = [
    {"name": "forward", "capability": 90, "block_d": 256},
    {"name": "forward", "capability": 80, "block_d": 128, "varlen": True, "full": False},
    {"name": "backward_dkdv", "capability": 90, "block_d": 128, "dtype": "float16", "varlen": True},
    {"name": "backward_dkdv", "capability": 80, "block_d": 256, "causal": False},
    {"name": "backward_dq", "capability": 90, "block_d": 64, "full": False},
    {"name": "backward_dq", "capability": 89, "block_d": 256},
    {"name": "preprocess", "capability": 80, "block_d": 64},
    {"name": "forward", "capability": 90, "block_d": 64, "aligned": False, "full": False},
    {"name": "forward", "capability": 80, "block_d": 64, **_EVERYTHING},
    {"name": "backward_dq", "capability": 90, "block_d": 128, "varlen": True, **_EVERYTHING},
    {"name": "backward_dkdv", "capability": 90, "block_d": 128, **_EVERYTHING},
    {"name": "probabilities", "capability": 90, "block_d": 64, **_EVERYTHING},
    {"name": "forward", "capability": 90, "block_d": 128, "tuned": [128, 64, 8, 3, True]},
    {"name": "backward_dkdv", "capability": 90, "block_d": 64, "full": False, "tuned": [64, 128, 8, 2, True]},
    {"name": "backward_dq", "capability": 90, "block_d": 64, "tuned": [64, 64, 4, 2, True]},
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the script found, from a process that compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _SCRIPT, json.dumps(_VARIANTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_variants_compile_and_fit(report: dict[str, Any]) -> None:
    assert len(report["compiled"]) == len(_VARIANTS)
    for variant, found in zip(_VARIANTS, report["compiled"], strict=True):
        assert found["defects"] == [], variant
        assert 16 <= found["registers"] <= 255, variant


def test_single_elements_move_only_where_alignment_is_unknown(report: dict[str, Any]) -> None:
    for variant, found in zip(_VARIANTS, report["compiled"], strict=True):
        weights = variant["name"] == "probabilities"  # stored under a mask of single scores
        assert found["wide"] == (variant.get("aligned", True) and not weights), variant


def test_a_process_that_compiles_refuses_the_cpu(report: dict[str, Any]) -> None:
    (sentence,) = report["refusal"]
    assert "set TRITON_INTERPRET=1 in the environment before Python starts" in sentence
