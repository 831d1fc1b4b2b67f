"""GPT-2 with any attention in it: the model whose training throughput is compared.

Pre-norm blocks, learned positions, tied embeddings (Radford et al. 2019), without biases and without dropout, as in the
comparison that our figures are read against. Attention is a function of q, k and v that the caller gives: nothing else
differs between two runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

VOCABULARY = 16_384


@dataclass(frozen=True, slots=True)
class Size:
    """Layers, heads and width of a model, and how many tokens it knows; head_dim is width / heads."""

    layers: int
    heads: int
    width: int
    vocabulary: int = VOCABULARY


SIZES = {
    "small": Size(layers=12, heads=12, width=768),
    "medium": Size(layers=24, heads=16, width=1024),
    "large": Size(layers=36, heads=20, width=1280),
    "tiny": Size(layers=2, heads=2, width=32, vocabulary=64),  # for a test on a CPU
}


class Block(nn.Module):
    """Attention, then a perceptron four times as wide, each added to what came in."""

    def __init__(self, size: Size, attend: Attend) -> None:
        super().__init__()
        self._heads = size.heads
        self._attend = attend
        self.norm_attention = nn.LayerNorm(size.width, bias=False)
        self.qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.merge = nn.Linear(size.width, size.width, bias=False)
        self.norm_perceptron = nn.LayerNorm(size.width, bias=False)
        self.widen = nn.Linear(size.width, 4 * size.width, bias=False)
        self.narrow = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, context, width) to the same."""
        batch, context, width = x.shape
        packed = self.qkv(self.norm_attention(x)).view(batch, context, 3, self._heads, width // self._heads)
        q, k, v = packed.unbind(2)
        x = x + self.merge(self._attend(q, k, v).reshape(batch, context, width))
        hidden: Tensor = self.narrow(functional.gelu(self.widen(self.norm_perceptron(x))))
        return x + hidden


class Gpt2(nn.Module):
    """The language model; its forward is the loss.

    attend  causal attention: q, k, v (batch, context, heads, head_dim) to out of the same shape
    """

    def __init__(self, size: Size, context: int, attend: Attend) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(context, size.width)
        self.blocks = nn.ModuleList(Block(size, attend) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width, bias=False)
        self.apply(_initialise)
        for block in self.blocks:
            assert isinstance(block, Block), "a list of blocks"
            for last in (block.merge, block.narrow):
                # 2 * layers of them add up in the residual stream: so much smaller each, that it keeps its variance.
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * size.layers))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy, a scalar, of predicting `targets` from `tokens`, both int64 (batch, context)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
