"""The judgement of a problem that is too large to be judged whole: of its sample, and of what is exact beyond it.

The sample is a smaller problem, see `fa2verify.kernels.sample`: packed sequences of the queries and keys that were
taken. It is judged as any other problem is, by R0 to R2 with reference, baseline and bounds of its own. Of all other
rows it is known that the gradients are 0 and that no element is NaN, as memory is that nobody has written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem, Varlen
from fa2verify.kernels.reference import Precision
from fa2verify.kernels.sample import Segment, pieces_k, pieces_lse, pieces_q, sample, starts
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import DecoyFate, OutputError, OutputName
from fa2verify.verify.judgement.decoys import as_kernel_would, fate, judge_decoys
from fa2verify.verify.judgement.judge import Breach, Judgement, judge, judged_outputs, wrong_form
from fa2verify.verify.judgement.truth import Truth

# Elements that are looked at in one step: each takes some bytes more.
_AT_ONCE = 2**28
_LIKE_K = ("dk", "dv")


@dataclass(frozen=True)
class SampleJudgement(Judgement):
    """What the rules say of a sample, in indices of the whole.

    whole     index into one of the sample's tensors to that into the whole's
    """

    whole: Callable[[OutputName, tuple[int, ...]], tuple[int, ...]] = field(default=lambda _, index: index)

    @property
    def errors(self) -> tuple[OutputError, ...]:
        """Measurements of the sample; `elements` are its own."""
        return tuple(
            replace(error, worst_index=self.whole(error.output, error.worst_index)) for error in super().errors
        )


def judge_sampled(
    problem: Problem, kernel: Kernel, tensors: Tensors, outputs: object, precision: Precision
) -> tuple[SampleJudgement, Truth]:
    """Judge what `kernel` gave for `problem`, whose values are "sampled"; with the truth about the sample."""
    segments = sample(problem)
    part = of_sample(problem, segments)
    truth = Truth.of(part, _tensors(problem, part, tensors, segments), precision)
    if not isinstance(outputs, Outputs):  # the judge has words for it
        judged = judge(part, kernel, outputs, truth)
        return SampleJudgement(judged.rule, judged.message), truth
    names = judged_outputs(problem, kernel)
    expected = {"out": tensors.q, "lse": _like_lse(tensors), "dq": tensors.q, "dk": tensors.k, "dv": tensors.v}
    for name in names:
        if wrong := wrong_form(name, problem, getattr(outputs, name), expected[name]):
            return SampleJudgement(*wrong), truth
    judged = judge(part, kernel, _outputs(problem, names, outputs, segments), truth)
    places = _Places.of(problem, segments)
    if not judged.passed:
        message = f"{places.renamed(judged.message)} (judged on a sample of {sum(part.seqlens_q)} queries)"
        return SampleJudgement(judged.rule, message, judged.comparisons, places.whole), truth
    rule, message = _beyond(problem, names, outputs, segments) or (None, "")
    return SampleJudgement(rule, message, judged.comparisons, places.whole), truth


def judge_sample_decoys(kernel: Kernel, truth: Truth) -> dict[str, DecoyFate]:
    """The decoys of the sample, and one more: each row is its neighbour's, as an index that is off by some finds it."""
    exact = truth.reference
    rolled = Outputs(
        exact.out.roll(1, 0),
        None if exact.lse is None else exact.lse.roll(1, -1),
        *(None if each is None else each.roll(1, 0) for each in (exact.dq, exact.dk, exact.dv)),
    )
    shifted = fate(truth.problem, kernel, truth, as_kernel_would(truth.problem, rolled))
    return judge_decoys(truth.problem, kernel, truth) | {"another row": shifted}


def of_sample(problem: Problem, segments: tuple[Segment, ...]) -> Problem:
    """The problem that the sample is, a sequence a segment."""
    lengths = Varlen(
        seqlens_q=tuple(sum(map(len, segment.queries)) for segment in segments),
        seqlens_k=tuple(len(segment.keys) for segment in segments),
    )
    return replace(problem, lengths=lengths, layout="plain", values="randn")


def _tensors(problem: Problem, part: Problem, tensors: Tensors, segments: tuple[Segment, ...]) -> Tensors:
    device = tensors.q.device
    return Tensors(
        q=torch.cat(pieces_q(problem, tensors.q, segments)),
        k=torch.cat(pieces_k(problem, tensors.k, segments)),
        v=torch.cat(pieces_k(problem, tensors.v, segments)),
        dout=torch.cat(pieces_q(problem, tensors.dout, segments)),
        cu_seqlens_q=torch.tensor(starts(part.seqlens_q), dtype=torch.int32, device=device),
        cu_seqlens_k=torch.tensor(starts(part.seqlens_k), dtype=torch.int32, device=device),
        max_seqlen_q=max(part.seqlens_q),
        max_seqlen_k=max(part.seqlens_k),
        alibi_slopes=tensors.alibi_slopes,
    )


def _outputs(
    problem: Problem, names: tuple[OutputName, ...], outputs: Outputs, segments: tuple[Segment, ...]
) -> Outputs:
    """The sample's part of the outputs that are owed; nobody has looked at what others there are."""

    def taken(name: OutputName) -> Tensor | None:
        if name not in names:
            return None
        tensor = getattr(outputs, name).detach()
        if name == "lse":
            return torch.cat(pieces_lse(problem, tensor, segments), dim=-1)
        return torch.cat((pieces_k if name in _LIKE_K else pieces_q)(problem, tensor, segments))

    out = taken("out")
    assert out is not None, "always owed"
    return Outputs(out, taken("lse"), taken("dq"), taken("dk"), taken("dv"))


def _like_lse(tensors: Tensors) -> Tensor:
    """A tensor of lse's shape that takes no memory."""
    rows = torch.empty((), device=tensors.q.device).expand(tensors.q.shape[:-1])
    return rows.mT


def _beyond(
    problem: Problem, names: tuple[OutputName, ...], outputs: Outputs, segments: tuple[Segment, ...]
) -> Breach | None:
    """What holds exactly in the whole, where nothing has been compared. The gradients of the sample become 0."""
    for name in names:
        tensor = getattr(outputs, name).detach()
        if name in ("out", "lse"):
            # A row that sees no key has an lse of -inf.
            wrong = torch.isnan if name == "lse" else _not_finite
            if (index := _first(tensor, wrong)) is not None:
                return f"R0 {name} finite", f"{name}{list(index)} is {float(tensor[index])}, and all inputs are finite"
            continue
        pieces = pieces_k if name in _LIKE_K else pieces_q
        if _nonzero([tensor]) == _nonzero(pieces(problem, tensor, segments)):
            continue
        rest = tensor.clone()
        for piece in pieces(problem, rest, segments):
            piece.zero_()
        index = _first(rest, lambda part: part != 0)
        assert index is not None, "counted"
        return (
            f"R0 {name} beyond the sample",
            f"{name}{list(index)} is {float(tensor[index]):.6g}, not 0: where it counts, the gradient of out is 0",
        )
    return None


def _not_finite(tensor: Tensor) -> Tensor:
    return ~tensor.isfinite()


def _nonzero(tensors: list[Tensor]) -> int:
    """How many elements are not 0; NaN is not."""
    return sum(int((part != 0).sum()) for tensor in tensors for part in _parts(tensor)[1])


def _first(tensor: Tensor, wrong: Callable[[Tensor], Tensor]) -> tuple[int, ...] | None:
    """The first element that is wrong, or None."""
    axis, parts = _parts(tensor)
    begin = 0
    for part in parts:
        found = wrong(part)
        if bool(found.any()):
            place = [int(index) for index in torch.unravel_index(found.to(torch.uint8).argmax().cpu(), found.shape)]
            place[axis] += begin
            return tuple(place)
        begin += part.shape[axis]
    return None


def _parts(tensor: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """Views of about `_AT_ONCE` elements, and the dimension along which they follow one another: the longest."""
    axis = max(range(tensor.dim()), key=lambda each: tensor.shape[each])
    others = tensor.numel() // max(1, tensor.shape[axis])
    return axis, torch.split(tensor, max(1, _AT_ONCE // max(1, others)), axis) if tensor.numel() else ()


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the sample's rows are in the whole.

    queries, keys  for each row of the sample its index there: (sequence, row), packed (row)
    """

    packed: bool
    queries: tuple[tuple[int, ...], ...]
    keys: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, problem: Problem, segments: tuple[Segment, ...]) -> "_Places":
        """Those of `segments`."""
        begin_q, begin_k = starts(problem.seqlens_q), starts(problem.seqlens_k)
        packed = problem.is_varlen

        def at(begins: list[int], sequence: int, row: int) -> tuple[int, ...]:
            return (begins[sequence] + row,) if packed else (sequence, row)

        return cls(
            packed,
            tuple(at(begin_q, part.sequence, row) for part in segments for run in part.queries for row in run),
            tuple(at(begin_k, part.sequence, row) for part in segments for row in part.keys),
        )

    def whole(self, name: OutputName, index: tuple[int, ...]) -> tuple[int, ...]:
        """Index into the sample's tensor to that into the whole's."""
        if not index:
            return index
        if name == "lse":
            head, row = index
            place = self.queries[row]
            return (head, *place) if self.packed else (place[0], head, place[1])
        return (*(self.keys if name in _LIKE_K else self.queries)[index[0]], *index[1:])

    def renamed(self, message: str) -> str:
        """The message with each index into a tensor, as in "dq[3, 0, 7]", turned into that of the whole."""

        def place(found: re.Match[str]) -> str:
            index = tuple(map(int, found[2].split(", ")))
            name: OutputName = found[1]  # type: ignore[assignment]
            return f"{name}{list(self.whole(name, index))}"

        return re.sub(r"\b(out|lse|dq|dk|dv)\[([\d, ]+)\]", place, message)
