"""One attention call as a backend is given it: sizes and features, no q, k or v."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from fa2verify.kernels.problem import Causal

# Index arithmetic in kernels is 32 bits wide: row + diagonal + window must fit.
MAX_SEQLEN = 2**30 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attention call; see `fa2verify.kernels.problem.Problem` for the words.

    seqlen_q, seqlen_k          lengths, varlen: the longest
    cu_seqlens_q, cu_seqlens_k  int32 (batch + 1) on the tensors' device, varlen only
    alibi_slopes                fp32 (heads_q) or (batch, heads_q), or None
    dropout                     probability in [0, 1)
    dropout_seed                int64 (1) on the tensors' device, or None without dropout
    without                     what `plain` gives, where the maker has it at hand
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_q: int
    heads_kv: int
    head_dim: int
    causal: Causal | None
    scale: float
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    dropout: float = 0.0
    dropout_seed: Tensor | None = None
    without: "Call | None" = field(default=None, repr=False, compare=False)

    @property
    def plain(self) -> "Call":
        """The same call without its tensors: what may be kept, and what a kept thing may be keyed by."""
        if self.cu_seqlens_q is None and self.alibi_slopes is None and self.dropout_seed is None:
            return self
        if self.without is not None:
            return self.without
        return replace(self, cu_seqlens_q=None, cu_seqlens_k=None, alibi_slopes=None, dropout_seed=None)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it brings, by name."""
        given = {
            "cu_seqlens_q": self.cu_seqlens_q,
            "cu_seqlens_k": self.cu_seqlens_k,
            "alibi_slopes": self.alibi_slopes,
            "dropout_seed": self.dropout_seed if self.dropout else None,
        }
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    @property
    def varlen(self) -> bool:
        """Whether sequences are packed one after the other."""
        return self.cu_seqlens_q is not None

    @property
    def band(self) -> tuple[int | None, int | None]:
        """(left, right) of the diagonal that a query sees, None where nothing bounds it; causal is a right of 0."""
        left, right = (self._bound(side) for side in self.window)
        return left, 0 if self.causal else right

    def _bound(self, side: int) -> int | None:
        # A window as wide as both lengths together reaches past every key, wherever the diagonal lies.
        return None if side < 0 or side >= self.seqlen_q + self.seqlen_k else min(side, MAX_SEQLEN)
