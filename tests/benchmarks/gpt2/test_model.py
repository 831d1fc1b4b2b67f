"""GPT-2 itself: its weights, and that a block adds to what comes in."""

import pytest
import torch

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2.model import SIZES, VOCABULARY, Block, Gpt2


@pytest.mark.parametrize("model", ["small", "medium", "large"])
def test_a_model_has_gpt2s_weights_less_the_biases(model: str) -> None:
    size = SIZES[model]
    with torch.device("meta"):
        gpt2 = Gpt2(size, 1024, lambda q, k, v: q)
    block = 12 * size.width**2 + 2 * size.width
    wanted = (VOCABULARY + 1024) * size.width + size.layers * block + size.width
    assert sum(weight.numel() for weight in gpt2.parameters()) == wanted
    assert size.width // size.heads == 64


def test_a_block_adds_to_what_comes_in() -> None:
    torch.manual_seed(0)
    block = Block(SIZES["tiny"], lambda q, k, v: v)
    x = torch.randn(2, 3, SIZES["tiny"].width)
    for last in (block.merge, block.narrow):
        torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        assert torch.equal(block(x), x)
