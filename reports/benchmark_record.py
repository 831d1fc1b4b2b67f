"""What a benchmark run leaves behind: one line of JSON a measurement, written and flushed as it is made.

The first line of `benchmarks.jsonl` says where the run took place; the others each name the cell that they belong to,
so that any of them can be read alone and a run that was cut short keeps what it had. Raw times are kept, not only
their medians: what is compared between two runs is decided by whoever compares. No torch is needed to read them.
"""

import statistics
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

Direction = Literal["forward", "backward", "both"]
Outcome = Literal["measured", "out_of_memory", "failed", "unsupported"]
Mode = Literal["eager", "compiled"]
Called = Literal["forward", "both"]
Cache = Literal["cold", "disk"]
Optimizer = Literal["AdamW", "8-bit AdamW"]

_CONFIG = ConfigDict(extra="forbid")
FILE = "benchmarks.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class BenchmarkRun:
    """Where and how the measurements came about.

    id           random
    started      ISO 8601, UTC
    device       "cpu" or "cuda"; a CPU's times say only that the benchmark works
    environment  name to version or value: python, torch, triton, cuda, driver, processor, gpu, ...
    options      the command line's choices: name to text
    """

    kind: Literal["benchmark_run"] = "benchmark_run"
    id: str
    started: str
    device: Literal["cpu", "cuda"]
    environment: dict[str, str]
    options: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Timing:
    """One kernel on one problem in one direction, timed in the same rounds as every other line of its cell.

    cell        grid and problem in short, for example "flash-d64-causal-s4096"
    problem     the problem as JSON
    direction   forward without a graph; backward on a kept graph; both: forward and backward of one call
    outcome     out_of_memory, failed and unsupported have no times, and `message` says why
    ms          device time of every round that counted, in milliseconds, in the order of the rounds
    operations  floating-point operations that the algorithm needs: 4 S^2 d a head, half if causal, backward 2.5 times
    """

    kind: Literal["timing"] = "timing"
    grid: str
    cell: str
    kernel: str
    direction: Direction
    problem: dict[str, Any]
    outcome: Outcome
    message: str = ""
    ms: tuple[float, ...] = ()
    operations: float = 0.0

    @property
    def median_ms(self) -> float:
        """Median of the rounds; NaN without any."""
        return median(self.ms)

    @property
    def tflops(self) -> float:
        """Operations over the median, in TFLOP/s; NaN without times."""
        return self.operations / self.median_ms / 1e9


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Ceiling:
    """What the device can do at best, timed in the rounds of a cell.

    name    matmul: a large square product in the cell's dtype; copy: a large tensor to another place
    amount  floating-point operations, or bytes read and written
    """

    kind: Literal["ceiling"] = "ceiling"
    cell: str
    name: Literal["matmul", "copy"]
    ms: tuple[float, ...]
    amount: float

    @property
    def rate(self) -> float:
        """TFLOP/s of the product, TB/s of the copy."""
        return self.amount / median(self.ms) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Memory:
    """Peak device memory of one call.

    direction  forward without a graph, or both
    bytes      highest allocation during the call above what was allocated before it: outputs, gradients, workspace
    inputs     bytes of q, k, v and, for both, the gradient of out
    seqlen     of queries and keys
    """

    kind: Literal["memory"] = "memory"
    cell: str
    kernel: str
    direction: Called
    problem: dict[str, Any]
    seqlen: int
    outcome: Outcome
    message: str = ""
    bytes: int = 0
    inputs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class HostCost:
    """Host time of one call that queues work and does not wait for it.

    subject  a kernel, or one of the parts that a call is made of: "library operator", "custom_op", "triton launch"
    us       microseconds a call, one value a batch of `calls` calls, batches interleaved across subjects
    """

    kind: Literal["host_cost"] = "host_cost"
    subject: str
    mode: Mode
    direction: Direction
    outcome: Outcome
    message: str = ""
    us: tuple[float, ...] = ()
    calls: int = 0

    @property
    def median_us(self) -> float:
        """Median over batches; NaN without any."""
        return median(self.us)


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class FirstCall:
    """What the first call of a variant costs in a fresh process.

    cache     cold: every compiler cache empty; disk: filled by an identical process before
    first_ms  from the call until the device has finished, in milliseconds, after torch and the device are up
    second_ms the same call again
    others_ms first calls of other variants after those, in the same process: what is left once the libraries are loaded
    """

    kind: Literal["first_call"] = "first_call"
    kernel: str
    cache: Cache
    direction: Called
    outcome: Outcome
    message: str = ""
    first_ms: float = 0.0
    second_ms: float = 0.0
    others_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Training:
    """A GPT-2 trained for some steps with one attention.

    model         small, medium or large (or tiny, for a test)
    memory        bytes that the process may use; 0 means all
    batch         sequences a step
    batch_from    how the batch came about: the search's subject, or "given"
    dtype         of autocast
    optimizer     AdamW with moments of fp32, or of 8 bits
    step_ms       wall time of every step
    counted       how many of the last steps the rate is the mean of
    losses        of every step
    graphs        compiled graphs; 0 when eager
    graph_breaks  reason to count; empty when eager, and for an attention that compiles into one graph
    compile_s     the first step, compilation included, in seconds
    peak_bytes    highest allocation
    """

    kind: Literal["training"] = "training"
    cell: str
    model: str
    context: int
    attention: str
    mode: Mode
    memory: int
    dtype: str
    optimizer: Optimizer = "AdamW"
    outcome: Outcome
    message: str = ""
    batch: int = 0
    batch_from: str = ""
    step_ms: tuple[float, ...] = ()
    counted: int = 0
    losses: tuple[float, ...] = ()
    graphs: int = 0
    graph_breaks: dict[str, int] = Field(default_factory=dict)
    compile_s: float = 0.0
    peak_bytes: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the last `counted` steps over their time; NaN without steps."""
        last = self.step_ms[-self.counted :] if self.counted else ()
        return self.batch * self.context * len(last) / sum(last) * 1e3 if last else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class LossAgreement:
    """Whether loss curves agree: an attention's distance from the standard one's, beside that of mere rounding.

    distance  root mean square over steps of the difference between the two loss curves
    noise     the same for each twin: standard attention from weights that were perturbed by one rounding
    """

    kind: Literal["loss_agreement"] = "loss_agreement"
    cell: str
    attention: str
    mode: Mode
    steps: int
    distance: float
    noise: tuple[float, ...]

    @property
    def within_noise(self) -> bool:
        """Whether a twin is as far away: if the attention were one of them, false with chance 1 / (twins + 1)."""
        return self.distance <= max(self.noise)


Measurement = Timing | Ceiling | Memory | HostCost | FirstCall | Training | LossAgreement
Line = Annotated[BenchmarkRun | Measurement, Field(discriminator="kind")]
_line: TypeAdapter[BenchmarkRun | Measurement] = TypeAdapter(Line, config=ConfigDict(ser_json_inf_nan="constants"))


def median(values: tuple[float, ...]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def to_json(line: BenchmarkRun | Measurement) -> str:
    """One line of JSON without its line end."""
    return _line.dump_json(line).decode()


def from_json(text: str | bytes) -> BenchmarkRun | Measurement:
    """Read what `to_json` wrote. Raises pydantic.ValidationError naming field, value and rule."""
    return _line.validate_json(text)


def read(path: Path) -> tuple[BenchmarkRun | Measurement, ...]:
    """Every whole line of a file; a last line that a killed run left half-written is left out.

    Raises OSError, and pydantic.ValidationError for a line that is no measurement.
    """
    # Split at b"\n" alone: JSON leaves U+2028 and its like in strings, at which str.splitlines would break a line.
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return tuple(from_json(line) for line in whole.split(b"\n") if line.strip())


class BenchmarkWriter:
    """Appends lines to a file, each flushed: what is measured is kept."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, *lines: BenchmarkRun | Measurement) -> None:
        """Append `lines`."""
        for line in lines:
            self._file.write(to_json(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
