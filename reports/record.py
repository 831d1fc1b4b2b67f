"""What one run leaves behind: the run itself, the kernels it knew, and a verdict for every problem it judged.

Records carry problems as plain JSON, so that a report can be rendered anywhere, without torch and without the kernels.
They are frozen, and every line of `records.jsonl` is one of them.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

VerdictName = Literal["passed", "failed", "unsupported", "crashed", "timed_out", "known"]
OutputName = Literal["out", "lse", "dq", "dk", "dv"]
DecoyFate = Literal["caught", "missed", "too_close"]

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class OutputError:
    """How far one output tensor is from the reference.

    output         which tensor
    elements       how many it has
    max_abs        max |candidate - reference|
    baseline       max |baseline - reference|; None where the baseline has no such output
    bound_units    max over elements of |candidate - reference| / F, F the elementwise bound; at most c to pass R2
    limit          c of R2: what `bound_units` may reach
    rmse           root of the mean squared error
    reference_rms  root of the mean squared reference value
    bias           sum of (candidate - reference) / (u * sum of |reference|), u the dtype's unit roundoff; near 0 if
                   roundings fall either way
    ulps           histogram of |candidate - reference| in units in the last place of the reference rounded to the
                   dtype: counts for [0, 1/2], (1/2, 1], (1, 2], (2, 4], (4, 8], ... , the last for all above
    worst_index    where bound_units is reached, an index into the tensor
    observed       the candidate there
    expected       the reference there
    """

    output: OutputName
    elements: int
    max_abs: float
    baseline: float | None
    bound_units: float
    limit: float
    rmse: float
    reference_rms: float
    bias: float
    ulps: tuple[int, ...]
    worst_index: tuple[int, ...]
    observed: float
    expected: float

    @property
    def ratio(self) -> float | None:
        """max_abs / baseline, the 2x rule's number; inf if only the baseline is exact, None without a baseline."""
        if self.baseline is None:
            return None
        if self.baseline == 0:
            return 0.0 if self.max_abs == 0 else float("inf")
        return self.max_abs / self.baseline


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Record:
    """One verdict on one kernel and one problem.

    kernel     its name
    problem    the problem as JSON; `fa2verify check KERNEL 'PROBLEM'` runs it again
    features   what the problem asks for, names of the matrix's columns
    verdict    passed, failed (see `rule`), unsupported (see `reasons`), crashed or timed_out; known: it is one of the
               bad ones, just as the ledger of known failures says
    rule       the rule that failed, for example "R2"
    message    what a person should read about a verdict that is not passed
    reasons    sentences: why the kernel does not take the problem
    errors     one entry an output tensor that could be measured
    decoys     decoy name to its fate: caught (judged failing), missed, or too_close to the truth to tell
    phase      "drawn", or "shrunk": the smallest problem that still fails, one for each failing run of a test
    reference  precision of the reference
    seconds    wall time of the kernel's call
    test       the test that drew the problem
    known      the entry of the ledger that covers the problem, whatever the verdict; None if none does
    """

    kind: Literal["verdict"] = "verdict"
    kernel: str
    problem: dict[str, Any]
    features: tuple[str, ...]
    verdict: VerdictName
    rule: str | None = None
    message: str = ""
    reasons: tuple[str, ...] = ()
    errors: tuple[OutputError, ...] = ()
    decoys: dict[str, DecoyFate] = Field(default_factory=dict)
    phase: Literal["drawn", "shrunk"] = "drawn"
    reference: Literal["fp64", "fp32"] = "fp64"
    seconds: float = 0.0
    test: str = ""
    known: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Known:
    """An entry of the ledger of known failures.

    name   what `Record.known` calls it
    says   what goes wrong, in a sentence
    link   the public issue, or the page in docs/findings
    where  versions and devices that it holds for
    """

    name: str
    says: str
    link: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class KernelEntry:
    """A kernel that the run knew, whether or not it could run.

    name, lineage  as the kernel declares them
    origin         "built in", "entry point NAME" or "--kernel=SPEC"
    unavailable    why it cannot run here, in sentences; empty if it ran
    unsupported    feature to the reasons why the kernel does not take it
    known          the known failures that were expected of it where it ran
    """

    kind: Literal["kernel"] = "kernel"
    name: str
    lineage: str
    origin: str
    unavailable: tuple[str, ...] = ()
    unsupported: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Run:
    """Where and how the verdicts came about.

    started      ISO 8601, UTC
    profile      Hypothesis profile
    seed         run seed: `--hypothesis-seed=SEED` repeats the run
    device       "cpu" or "cuda"
    environment  name to version or value: python, torch, triton, cuda, driver, processor, ...
    features     every feature, in the order of the matrix's columns
    """

    kind: Literal["run"] = "run"
    id: str
    started: str
    profile: str
    seed: int
    device: str
    environment: dict[str, str]
    features: tuple[str, ...]


Line = Annotated[Run | KernelEntry | Record, Field(discriminator="kind")]
# The adapter's own config: the classes' one governs only what they validate, and infinities would be written as null.
_line: TypeAdapter[Run | KernelEntry | Record] = TypeAdapter(Line, config=ConfigDict(ser_json_inf_nan="constants"))


def to_json(line: Run | KernelEntry | Record) -> str:
    """One line of JSON without its line end. Infinities and NaN are written as JSON5 constants."""
    return _line.dump_json(line).decode()


def from_json(text: str | bytes) -> Run | KernelEntry | Record:
    """Read what `to_json` wrote. Raises pydantic.ValidationError naming field, value and rule."""
    return _line.validate_json(text)
