"""Trains GPT-2 for some steps and times them: one attention, eager or compiled, in this process.

Autocast (with loss scaling in fp16), the same weights and the same tokens for every attention. Steps are not
waited for: an event after each tells the device's time, and the host may run ahead as it does in real training.
"""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.compiler import config as compiler_config

from fa2verify.benchmarks.gpt2.attention import CHOICES
from fa2verify.benchmarks.gpt2.model import SIZES, Gpt2
from fa2verify.benchmarks.gpt2.optimizer import BYTES, make_optimizer, missing, optimizer_of
from fa2verify.benchmarks.gpt2.turn import Turn
from fa2verify.benchmarks.timing import failure_of
from fa2verify.kernels.tensors import TORCH_DTYPE
from fa2verify.reports.benchmark_record import Mode, Optimizer, Training

COUNTED = 25
_BATCHES = 8  # of tokens, used in turn: drawing them would be timed otherwise


class OutOfTime(Exception):
    """A training's time was up before it had two steps, of which one could count."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a training is, but for its attention.

    model    a key of `gpt2.model.SIZES`
    memory   bytes that the process may use, 0 for all; for the record: `limit_memory` sets it
    dtype    of autocast, "float16" or "bfloat16"
    """

    model: str
    context: int
    steps: int
    dtype: str
    device: torch.device
    memory: int = 0
    seed: int = 0

    @property
    def cell(self) -> str:
        """The setting in short."""
        return f"gpt2-{cell_name(self.model, self.context, self.memory)}"

    @property
    def optimizer(self) -> Optimizer:
        """What it is trained with."""
        return optimizer_of(self.model)


def cell_name(model: str, context: int, memory: int) -> str:
    """A model at a context in so many bytes of memory, 0 for all, in short: "small-c256-12gb"."""
    return f"{model}-c{context}-{f'{memory / 1e9:.3g}gb' if memory else 'all'}"


def limit_memory(bytes_: int) -> None:
    """Let this process allocate at most so much on its GPU. Raises ValueError for more than there is."""
    total = torch.cuda.get_device_properties(0).total_memory
    if bytes_ > total:
        raise ValueError(f"{bytes_} bytes of memory are asked for; this GPU has {total}")
    torch.cuda.set_per_process_memory_fraction(bytes_ / total)


@cache
def weight_count(model: str, context: int) -> int:
    """How many a model, a key of `gpt2.model.SIZES`, has."""
    with torch.device("meta"):
        made = Gpt2(SIZES[model], context, lambda q, k, v: v)  # noqa: ARG005 - never called
    return sum(weight.numel() for weight in made.parameters())


def bytes_without_tokens(model: str, context: int) -> int:
    """Memory that a step takes whatever its batch: weights, gradients and the optimizer's moments."""
    return int(BYTES[optimizer_of(model)] * weight_count(model, context))


class Trainer:
    """A model with its optimizer, made of a setting and an attention's name; the same weights every time."""

    def __init__(self, setting: Setting, attention: str, mode: Mode) -> None:
        self.setting = setting
        self.choice = CHOICES[attention]
        size, device = SIZES[setting.model], setting.device
        torch.manual_seed(setting.seed)
        with torch.device(device):
            self.model = Gpt2(size, setting.context, self.choice.make(setting.context, device))
        self.forward: nn.Module = self.model
        if mode == "compiled":
            self.forward = torch.compile(self.model)  # type: ignore[assignment]
        self._optimizer = make_optimizer(setting.optimizer, self.model.parameters())
        scaled = setting.dtype == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def step(self, tokens: Tensor) -> Tensor:
        """One step on int64 (batch, context + 1); gives the loss, still on the device."""
        with torch.autocast(self.setting.device.type, TORCH_DTYPE[self.setting.dtype]):
            loss: Tensor = self.forward(tokens[:, :-1], tokens[:, 1:])
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def perturb(self, twin: int) -> None:
        """Change every weight by one rounding of autocast's dtype, up or down at random."""
        generator = torch.Generator(self.setting.device).manual_seed(twin + 1)
        unit = torch.finfo(TORCH_DTYPE[self.setting.dtype]).eps / 2
        with torch.no_grad():
            for weight in self.model.parameters():
                signs = torch.randint(0, 2, weight.shape, generator=generator, device=weight.device) * 2 - 1
                weight.mul_(1 + unit * signs)


def draw_tokens(setting: Setting, batch: int) -> list[Tensor]:
    """Batches of int64 (batch, context + 1): Zipf's law, the second half of a sequence repeating the first.

    There is something to learn: frequencies at once, and the repetition by attention alone.
    """
    vocabulary = SIZES[setting.model].vocabulary
    chances = 1 / torch.arange(1, vocabulary + 1, device=setting.device, dtype=torch.float32)
    generator = torch.Generator(setting.device).manual_seed(setting.seed)
    half = -(-(setting.context + 1) // 2)
    drawn = []
    for _ in range(min(setting.steps, _BATCHES)):
        flat = torch.multinomial(chances, batch * half, replacement=True, generator=generator)
        drawn.append(flat.view(batch, half).repeat(1, 2)[:, : setting.context + 1].contiguous())
    return drawn


def losses(setting: Setting, attention: str, batch: int, twin: int | None = None) -> tuple[float, ...]:
    """The loss of every step, eager; `twin` numbers a run from perturbed weights."""
    trainer = Trainer(setting, attention, "eager")
    if twin is not None:
        trainer.perturb(twin)
    tokens = draw_tokens(setting, batch)
    with trainer.choice.around():
        found = [trainer.step(tokens[number % len(tokens)]) for number in range(setting.steps)]
    return tuple(float(loss) for loss in found)


def train(
    setting: Setting, attention: str, mode: Mode, batch: int, batch_from: str, deadline: float, turn: Turn
) -> Training:
    """Train and time. Running out of memory or failing is the outcome. Raises OutOfTime, and ContextLost.

    What "compiled" runs is compiled here, however often the same model was before.

    deadline  of time.monotonic(): no step but the first begins after it
    turn      which is held, but for compiling
    """
    blank = Training(
        cell=setting.cell,
        model=setting.model,
        context=setting.context,
        attention=attention,
        mode=mode,
        memory=setting.memory,
        dtype=setting.dtype,
        optimizer=setting.optimizer,
        outcome="failed",
        batch=batch,
        batch_from=batch_from,
    )
    if reason := missing(setting.optimizer):
        return replace(blank, outcome="unsupported", message=reason)
    if setting.memory and (least := bytes_without_tokens(setting.model, setting.context)) > setting.memory:
        # Compiling first would take a minute to end the same way.
        message = f"weights, gradients and {setting.optimizer}'s moments take {least / 1e9:.1f} GB without any token"
        return replace(blank, outcome="out_of_memory", message=message)
    torch._dynamo.reset()
    release(setting.device)
    torch._dynamo.utils.counters.clear()
    try:
        # To AOTAutograd's cache all backends of scaled_dot_product_attention are one, and a training would run another
        # attention's code: docs/findings/sdpa-backend-from-the-compile-cache.md.
        # The backward is compiled with the forward, and not when it is first called: until then a process has no more
        # than its weights on the device, and others their turn.
        with (
            compiler_config.patch(force_disable_caches=True),  # type: ignore[attr-defined]
            functorch_config.patch(force_non_lazy_backward_lowering=True),
            turn.left_to_compile(),
        ):
            return _timed(blank, setting, deadline, turn)
    except OutOfTime:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code: what it raises is what its record says
        failure = failure_of(error, setting.device)
        return replace(blank, outcome=failure.outcome, message=failure.message)


def _timed(blank: Training, setting: Setting, deadline: float, turn: Turn) -> Training:
    trainer = Trainer(setting, blank.attention, blank.mode)
    tokens = draw_tokens(setting, blank.batch)
    found: list[Tensor] = []
    marks = _Marks(setting.device)
    begin, waited = time.monotonic(), turn.waited
    first_s = 0.0
    # Of the last steps, which count, and of two that fill the device's queue again.
    quiet_from = max(1, setting.steps - min(COUNTED, setting.steps // 2) - 2)
    with trainer.choice.around(), ExitStack() as quiet:
        for number in range(setting.steps):
            if number == quiet_from:
                _synchronize(setting.device)
                quiet.enter_context(turn.quiet())
            marks.add()
            found.append(trainer.step(tokens[number % len(tokens)]))
            if number == 0:
                _synchronize(setting.device)
                first_s = time.monotonic() - begin - (turn.waited - waited)
            if time.monotonic() > deadline:
                break
        marks.add()
        _synchronize(setting.device)
    # The first steps warm up; of a run that was cut short, the later half counts.
    counted = min(COUNTED, len(found) // 2)
    if not counted:
        raise OutOfTime(f"time was up after {len(found)} steps")
    counters = torch._dynamo.utils.counters
    return replace(
        blank,
        outcome="measured",
        step_ms=marks.intervals(),
        counted=counted,
        losses=tuple(float(loss) for loss in found),
        graphs=int(counters["stats"]["unique_graphs"]),
        graph_breaks={str(reason): int(count) for reason, count in counters["graph_break"].items()},
        compile_s=first_s,
        peak_bytes=torch.cuda.max_memory_allocated() if setting.device.type == "cuda" else 0,
    )


class _Marks:
    """Moments of the device's time, or of the host's on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] | None = [] if device.type == "cuda" else None
        self._seconds: list[float] = []

    def add(self) -> None:
        """Mark this moment."""
        if self._events is None:
            self._seconds.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    def intervals(self) -> tuple[float, ...]:
        """Milliseconds from each mark to the next; the device must be idle."""
        if self._events is None:
            return tuple((b - a) * 1e3 for a, b in zip(self._seconds, self._seconds[1:], strict=False))
        return tuple(float(a.elapsed_time(b)) for a, b in zip(self._events, self._events[1:], strict=False))


def largest_batch(setting: Setting, attention: str, limit: int = 0, most: int = 4096) -> int:
    """The largest batch whose first two steps fit into memory, eager, to 1 part in 32; 0 if not even one sequence does.

    Two, since the optimizer's state comes with the first. Raises what training raises but for a lack of memory.

    limit  bytes that there are; 0: not known, and the search begins at one sequence
    """
    trainer = Trainer(replace(setting, steps=1), attention, "eager")

    def fits(batch: int) -> bool:
        try:
            (tokens,) = draw_tokens(trainer.setting, batch)
            with trainer.choice.around():
                for _ in range(2):
                    trainer.step(tokens)
            _synchronize(setting.device)
        except torch.OutOfMemoryError:
            trainer.model.zero_grad(set_to_none=True)
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
            return False
        return True

    def peak(batch: int) -> int:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() if fits(batch) else limit

    # Memory grows by as much with each sequence: two small batches tell where to look.
    return search(fits, most, extrapolated(peak, limit) if limit else 1)


def extrapolated(peak: Callable[[int], int], limit: int) -> int:
    """The batch whose peak should be 0.95 of `limit` by those of 1 and 4 sequences; the allocator needs the rest."""
    one, four = peak(1), peak(4)
    return 1 + int(3 * max(0.0, 0.95 * limit - one) / max(1, four - one))


def search(fits: Callable[[int], bool], most: int, guess: int = 1) -> int:
    """The largest number up to `most` that fits, or less than 1/32 of it below that; 0 if 1 does not.

    fits   true of all below one that fits
    guess  where to begin: near the answer a few probes are enough, from 1 on they double
    """
    guess = min(max(guess, 1), most)
    step = max(1, guess // 32)
    if fits(guess):
        low = guess
        while (high := low + step) <= most and fits(high):
            low, step = high, 2 * step
        high = min(high, most + 1)
    else:
        high = guess
        while (low := max(high - step, 0)) and not fits(low):
            high, step = low, 2 * step
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square of the differences of two loss curves of one length."""
    squares = [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
    return float((sum(squares) / len(squares)) ** 0.5)


def release(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
