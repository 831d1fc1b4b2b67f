"""A sequence alone: the same bits as in its batch, where a kernel claims that.

A kernel that splits keys by how full the batch makes the device, or takes other tiles for a longer neighbour, is right
within the bound either way, and still answers a request differently with every batch it is put into.
"""

from dataclasses import replace

from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import OutputName
from fa2verify.verify.judgement.judge import Breach
from fa2verify.verify.relations.relation import Call, bits_breach

RULE = "R4 batch invariance"


def batch_invariance(call: Call) -> Breach | None:
    """Call with each sequence alone, and compare out, lse and, of deterministic problems, gradients.

    Raises what the kernel raises. Dropout's mask is a function of the place in the batch, so it says nothing there.
    """
    problem = call.problem
    if not call.kernel.batch_invariant or problem.batch == 1 or problem.dropout:
        return None
    names = call.owed if call.ordered else call.forward_owed
    for index in range(problem.batch):
        one, tensors = alone(problem, call.tensors, index)
        if call.kernel.unsupported(one):
            continue
        outputs = call.kernel(one, tensors)
        for name in names:
            in_batch = _part(problem, name, getattr(call.outputs, name), index)
            found = getattr(outputs, name, None)
            if breach := bits_breach(RULE, name, in_batch, found, f"sequence {index} alone"):
                return breach
    return None


def alone(problem: Problem, tensors: Tensors, index: int) -> tuple[Problem, Tensors]:
    """Sequence `index` as a batch of its own; its tensors are views of the batch's, where they lie."""
    length_q, length_k = problem.seqlens_q[index], problem.seqlens_k[index]
    lengths: Dense | Varlen
    if problem.is_varlen:
        lengths = Varlen(seqlens_q=(length_q,), seqlens_k=(length_k,))
    else:
        lengths = Dense(seqlen_q=length_q, seqlen_k=length_k)
    slopes = tensors.alibi_slopes
    found = replace(
        tensors,
        **{name: _part(problem, name, getattr(tensors, name), index) for name in ("q", "k", "v", "dout")},
        cu_seqlens_q=_offsets(tensors.cu_seqlens_q, index),
        cu_seqlens_k=_offsets(tensors.cu_seqlens_k, index),
        max_seqlen_q=length_q,
        max_seqlen_k=length_k,
        alibi_slopes=slopes if slopes is None or slopes.dim() == 1 else slopes[index : index + 1],
    )
    # Rows past the last sequence are nobody's.
    return replace(problem, lengths=lengths, layout="plain" if problem.tail else problem.layout), found


def _offsets(offsets: Tensor | None, index: int) -> Tensor | None:
    return None if offsets is None else offsets[index : index + 2] - offsets[index]


def _part(problem: Problem, name: OutputName | str, tensor: Tensor, index: int) -> Tensor:
    """What belongs to sequence `index`."""
    if not problem.is_varlen:
        return tensor[index : index + 1]
    lengths = problem.seqlens_k if name in ("k", "v", "dk", "dv") else problem.seqlens_q
    start = sum(lengths[:index])
    return tensor.narrow(-1 if name == "lse" else 0, start, lengths[index])
