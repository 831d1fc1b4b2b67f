"""`fa2verify check`: one kernel on one problem, the line that every failure ends with."""

from collections.abc import Sequence
from typing import NoReturn

import click
import torch

from fa2verify.kernels import answers
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem, ProblemError
from fa2verify.kernels.reference import Precision
from fa2verify.kernels.registry import KernelSpecError, select
from fa2verify.reports.record import OutputError, Record
from fa2verify.verify.known_failures.built_in import LEDGER
from fa2verify.verify.known_failures.ledger import KnownFailure, Place
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.trial.attempt import Bench, ContextLost, attempt
from fa2verify.verify.trial.isolation import Isolation
from fa2verify.verify.trial.no_answer import no_answer
from fa2verify.verify.trial.sanitizer import TOOLS, Sanitizer, SanitizerMissing, Tool, find

# Seconds that a problem may take which is known to end or to hang its process: as in a run.
_TIMEOUT = 120.0
# Several times what the slowest tool takes for the largest problem.
_SANITIZED_SECONDS = 3600.0


@click.command()
@click.argument("kernel", metavar="KERNEL")
@click.argument("problem", metavar="PROBLEM-JSON")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run it.")
@click.option(
    "--reference",
    type=click.Choice(["fp64", "fp32"]),
    default="fp64",
    show_default=True,
    help="The reference's precision.",
)
@click.option(
    "--sanitizer",
    type=click.Choice(TOOLS),
    help="Do not judge it: call it under this tool of compute-sanitizer, which says what it finds.",
)
def check(kernel: str, problem: str, device: str, reference: Precision, sanitizer: Tool | None) -> None:
    """Run KERNEL on the problem and judge it.

    KERNEL is a name that `fa2verify kernels` lists, or module:object or file.py:object. The problem is the JSON that a
    failure prints; fields that are left out have their defaults.

    Exits with 0 if it passed, 1 if it did not, 2 if the kernel does not take the problem or cannot run here.
    """
    try:
        chosen = select([kernel])[0].kernel
        asked = Problem.from_json(problem)
    except (KernelSpecError, ProblemError) as error:
        raise click.UsageError(str(error)) from error
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device=cuda: torch sees no CUDA device here")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if reasons := answers.unavailable(chosen, place):
        raise click.UsageError(f"{chosen.name} cannot run here: {' '.join(reasons)}")
    if sanitizer is not None:
        _finish(_watched(sanitizer, kernel, chosen, asked, place))
    entries = [entry for entry in LEDGER.at(Place.here(place.type)).of(chosen.name) if entry.covers(asked)]
    try:
        if any(entry.takes_process for entry in entries):
            record = Isolation((kernel,), place.type, reference, _TIMEOUT, related=True).attempt(chosen, asked)
        else:
            bench = Bench(place, reference, relations=RELATIONS)
            record = no_answer(chosen, asked, reference) or attempt(chosen, asked, bench)
    except ContextLost as lost:
        raise click.ClickException(f"{chosen.name}: crashed, the CUDA context is lost. {lost}") from lost
    _finish(record, entries)


def _watched(tool: Tool, spec: str, kernel: Kernel, problem: Problem, device: torch.device) -> Record:
    if device.type != "cuda":
        raise click.UsageError(f"--sanitizer={tool} watches kernels on a GPU, and this would run on the cpu")
    try:
        return Sanitizer(tool, find(), (spec,), device.type, _SANITIZED_SECONDS).attempt(kernel, problem)
    except SanitizerMissing as missing:
        raise click.UsageError(f"--sanitizer={tool}: {missing}") from missing


def _finish(record: Record, entries: Sequence[KnownFailure] = ()) -> NoReturn:
    for line in (*describe(record), *in_the_ledger(entries, record)):
        click.echo(line)
    raise SystemExit({"passed": 0, "unsupported": 2}.get(record.verdict, 1))


def in_the_ledger(entries: Sequence[KnownFailure], record: Record) -> list[str]:
    """What the ledger of known failures says of the problem, a line an entry; `entries` cover it."""
    lines = []
    for entry in entries:
        if entry.expects(record):
            comment = "this is"
        elif record.verdict == "passed":
            comment = "it passed, although the problem is among those of"
        else:
            comment = f"this is another failure than {entry.verdict}, {' or '.join(entry.rules)}, of"
        lines.append(f"  {comment} the known failure {entry.name}: {entry.says} {entry.link} ({entry.where})")
    return lines


def describe(record: Record) -> list[str]:
    """The record as lines of text."""
    rule = f", {record.rule}" if record.rule else ""
    lines = [f"{record.kernel}: {record.verdict}{rule}"]
    lines += [f"  {sentence}" for sentence in (record.message, *record.reasons) if sentence]
    if record.errors:
        lines.append("  output  max error    PyTorch's    ratio   of the bound  bias/u    worst at")
        lines += [f"  {_row(error)}" for error in record.errors]
    if record.decoys:
        lines.append(
            "  decoys  " + ", ".join(f"{name}: {fate.replace('_', ' ')}" for name, fate in record.decoys.items())
        )
    return lines


def _row(error: OutputError) -> str:
    baseline = "-" if error.baseline is None else f"{error.baseline:.3e}"
    ratio = "-" if error.ratio is None else f"{error.ratio:.3f}"
    where = ", ".join(map(str, error.worst_index))
    return (
        f"{error.output:6}  {error.max_abs:.3e}    {baseline:9}    {ratio:6}  "
        f"{error.bound_units / error.limit:<12.3f}  "
        f"{error.bias:<+8.3f}  [{where}] {error.observed:.6g}, reference {error.expected:.6g}"
    )
