"""Every barrier and every wait of our CUDA kernels is needed, and the emulator misses none of them.

Each is taken out of the source in turn; the emulator must object, naming what was too early.
"""

import re

import pytest

from fa2verify.kernels.cuda import configuration, emulator
from fa2verify.kernels.cuda.attention import attention
from fa2verify.kernels.cuda.configuration import NAMES, Feature, Name, Tiles, Variant, variant
from fa2verify.kernels.cuda.host_compiler import library
from fa2verify.kernels.cuda.source import FOLDER, host_source
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import make_tensors

_ORDERS = re.compile(r"^ +(?:if constexpr .*\) )?((?:block_sync|warp_sync|wait_copies<\d>)\(\);)", re.MULTILINE)


# The one-pass backward has barriers in three forms: dQ a tile late, P and dS from registers, from shared memory.
_LATE = Tiles(32, 64, 4, stages=2, spread=(4, 4, 2))
_REGISTERS = Tiles(32, 64, 4, stages=1, spread=(4, 4, 2))
_SHARED = Tiles(32, 64, 4, stages=1, spread=(2, 2, 2))
_FORMS = (_LATE, _LATE, _REGISTERS, _SHARED, _SHARED, _LATE, _LATE)


def _points() -> list[tuple[Name, str, int]]:
    """(kernel, file, which one in the file)."""
    files: list[tuple[Name, str]] = [(name, f"{name}.cuh") for name in NAMES]
    files += [(name, "tile.cuh") for name in NAMES if name not in ("preprocess", "probabilities")]
    return [
        (name, file, index)
        for name, file in files
        for index, _ in enumerate(_ORDERS.finditer((FOLDER / file).read_text()))
    ]


def test_the_points_are_found() -> None:
    assert len(_points()) == 4 + len(_FORMS) + 4 + 4 + 3 + 5


@pytest.mark.parametrize(("name", "file", "index"), _points())
def test_a_barrier_or_wait_that_is_missing_is_reported(
    name: Name, file: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FOLDER / file).read_text()
    found = list(_ORDERS.finditer(text))[index]
    mutated = text[: found.start(1)] + "{} /* taken out */" + text[found.end(1) :]
    lines = slice(text.index("namespace fa2"), None)  # what comes before is rewritten when headers are put together
    if name == "backward":
        monkeypatch.setitem(configuration._ONE_PASS, 32, {99: _FORMS[index] if file == "backward.cuh" else _LATE})
    source = host_source([variant(name, "float16", 32, Feature.ANY)])
    assert text[lines] in source
    mutant = emulator.prepared(library(source.replace(text[lines], mutated[mutated.index("namespace fa2") :])), name)

    original = emulator._function

    def mixed(wanted: Variant) -> object:
        return mutant if wanted.name == name else original(wanted)

    monkeypatch.setattr(emulator, "_function", mixed)
    deterministic = name in ("backward_dkdv", "backward_dq")
    problem = Problem(lengths=Dense(seqlen_q=260, seqlen_k=260), head_dim=32, direction="forward_backward")
    tensors = make_tensors(problem)
    q, k, v = (tensor.requires_grad_() for tensor in (tensors.q, tensors.k, tensors.v))
    with pytest.raises(emulator.EmulatorError, match=rf"^{name}: block \d+: \w+\.cuh:\d+: .*shared memory"):
        attention(q, k, v, dropout_p=0.5, deterministic=deterministic, return_weights=True)[0].backward(tensors.dout)
