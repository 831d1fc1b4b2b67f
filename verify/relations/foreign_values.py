"""Whether a sequence or a key head reaches another's results: every second of them is filled with NaN.

A tile that is not full holds what lies behind its sequence in memory, which is the next sequence or head. Its weight
is zero, so that with finite values nothing shows; 0 * NaN does, and one request's NaN is then another's answer. A
reference cannot see it: no drawn value is NaN, and red zones around a tensor are not between its sequences.

What must stay as it was is only that finite elements are finite: no bits are promised, and what a kernel gives for the
NaN itself is not judged here.
"""

from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.judgement.judge import Breach
from fa2verify.verify.relations.relation import Call, form_breach

RULE = "R4 foreign values"


def foreign_values(call: Call) -> Breach | None:
    """Call with NaN in every second sequence and key head, and look at the others. Raises what the kernel raises."""
    problem, device = call.problem, call.tensors.q.device
    foul_q, foul_k = (_foul(problem, side, device) for side in ("q", "k"))
    if not bool(foul_q.any() or foul_k.any()):
        return None
    tensors = make_tensors(problem, device)
    for tensor, foul in ((tensors.q, foul_q), (tensors.k, foul_k), (tensors.v, foul_k), (tensors.dout, foul_q)):
        tensor[foul] = float("nan")
    outputs = call.kernel(problem, tensors)
    rows = foul_q.transpose(-2, -1)
    places = {"out": foul_q[..., None], "lse": rows, "dq": foul_q[..., None], "dk": foul_k[..., None]}
    places["dv"] = places["dk"]
    for name in call.owed:
        clean: Tensor = getattr(call.outputs, name)
        found: Any = getattr(outputs, name, None)
        if breach := form_breach(RULE, name, clean, found, "a call with NaN in other sequences and heads"):
            return breach
        traces = ~places[name] & ((clean.isfinite() & ~found.isfinite()) | (found.isnan() & ~clean.isnan()))
        if bool(traces.any()):
            index = tuple(int(i) for i in traces.nonzero()[0])
            return (
                f"{RULE} {name}",
                f"{name}{list(index)} is {float(found[index])}, not {float(clean[index]):.6g}, when other sequences "
                f"and key heads hold NaN ({int(traces.sum())} such elements)",
            )
    return None


def _foul(problem: Problem, side: str, device: torch.device) -> Tensor:
    """Where NaN goes: bool (batch, seqlen, heads), varlen (total, heads); neighbours alternate, the first is kept."""
    lengths, heads, group = problem.seqlens_k, problem.heads_kv, 1
    if side == "q":
        lengths, heads, group = problem.seqlens_q, problem.heads_q, problem.group
    sequence = torch.arange(problem.batch).repeat_interleave(torch.tensor(lengths))
    foul = ((sequence[:, None] + torch.arange(heads) // group) % 2).bool().to(device)
    foul = torch.cat([foul, foul.new_zeros(problem.tail, heads)])  # rows past the last sequence hold NaN as it is
    return foul if problem.is_varlen else foul.reshape(problem.batch, lengths[0], heads)
