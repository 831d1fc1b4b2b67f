"""Published figures that ours are shown beside: GPT-2's training throughput by attention.

"FlashAttention with PyTorch Compile": RTX 3080 Ti (12 GB, 300 W), PyTorch 2.0.1, CUDA 11.8, FlashAttention-2 2.0.4;
GPT-2 with a vocabulary of 16,384, no biases, no dropout, fp16 mixed precision, AdamW (8-bit for large); tokens a second
over the last 25 of 125 batches. Compiled, PyTorch's attentions are one graph and FlashAttention-2 breaks it.
"""

from dataclasses import dataclass

from fa2verify.reports.benchmark_record import Mode

SOURCE = "published: RTX 3080 Ti, PyTorch 2.0.1"
CONTEXTS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)

Tokens = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """One attention's row.

    batches  by context: sequences a step; None where none is published
    tokens   by context: tokens a second; None where memory ran out, or, of every attention, where none is published
    """

    attention: str
    tokens: Tokens
    batches: tuple[int | None, ...] = (None,) * len(CONTEXTS)


FLASH, _FA2, _PLAIN = "SDPA, FlashAttention", "FlashAttention-2", "plain PyTorch"
_N = None


def _compiled(
    plain_batches: tuple[int | None, ...], plain: Tokens, batches: tuple[int | None, ...], flash: Tokens, fa2: Tokens
) -> tuple[Published, ...]:
    return (
        Published(_PLAIN, plain, plain_batches),
        Published(FLASH, flash, batches),
        Published(f"{_FA2}, graph breaks", fa2, batches),
    )


PUBLISHED: dict[tuple[str, Mode], tuple[Published, ...]] = {
    ("small", "compiled"): _compiled(
        (52, 16, 8, 6, 3, 1, 1, _N),
        (63_820, 52_199, 46_109, 42_936, 35_495, 24_602, 22_804, _N),
        (64, 32, 24, 16, 8, 8, 5, 4),
        (72_785, 68_044, 66_790, 65_065, 59_840, 60_257, 55_342, 37_697),
        (71_628, 68_051, 67_465, 65_523, 60_351, 61_153, 56_480, 53_791),
    ),
    ("medium", "compiled"): _compiled(
        (16, 6, 3, 1, 1, _N, _N, _N),
        (17_750, 15_302, 13_010, 8_585, 9_688, _N, _N, _N),
        (24, 8, 8, 6, 4, 3, 2, 1),
        (20_914, 18_310, 19_984, 19_725, 19_064, 15_807, 12_089, 6_886),
        (20_601, 18_316, 19_959, 19_719, 19_124, 18_557, 17_546, 14_633),
    ),
    ("large", "compiled"): _compiled(
        (_N,) * 8,
        (_N,) * 8,
        (10, 5, 3, 2, 1, 1, _N, _N),
        (8_670, 8_451, 8_089, 7_061, 5_361, 5_103, _N, _N),
        (8_960, 8_861, 8_448, 7_904, 7_034, 7_308, _N, _N),
    ),
    ("medium", "eager"): (
        Published(FLASH, (19_993, 17_449, _N, 18_746, _N, 15_202, 11_730, 6_821)),
        Published(_FA2, (20_993, 18_195, _N, 19_503, _N, 17_107, 15_307, 15_038)),
    ),
}


def published(model: str, mode: Mode) -> tuple[Published, ...]:
    """What is published for a model, rows with at least one figure."""
    return tuple(row for row in PUBLISHED.get((model, mode), ()) if any(row.tokens))
