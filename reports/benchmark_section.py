"""What the report says of benchmarks, machine by machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from fa2verify.reports.benchmark_parts import parts
from fa2verify.reports.benchmark_store import Machine
from fa2verify.reports.figures import Part
from fa2verify.reports.summary import plural


@dataclass(frozen=True, slots=True)
class Section:
    """One machine.

    title     the machine and its torch
    sentence  where and when, and how much
    device    "cpu" or "cuda"
    """

    title: str
    sentence: str
    device: str
    parts: tuple[Part, ...]


def sections(machines: Sequence[Machine]) -> tuple[Section, ...]:
    """A section for each machine that something was measured on."""
    made = (_section(machine) for machine in machines)
    return tuple(section for section in made if section.parts)


def names(found: Sequence[Section]) -> tuple[str, ...]:
    """Whatever the sections' charts draw, each once: the place of a name gives it its colour."""
    return tuple(dict.fromkeys(name for section in found for part in section.parts for name in part.names))


def sentence(machines: Sequence[Machine]) -> str:
    """All of it in short, for example "Benchmarks on NVIDIA H200, 1,204 measurements"."""
    where = ", ".join(dict.fromkeys(machine.name for machine in machines))
    return f"Benchmarks on {where}, {plural(sum(len(machine.lines) for machine in machines), 'measurement')}"


def _section(machine: Machine) -> Section:
    said = machine.runs[-1].environment
    versions = [f"{name} {said[name]}" for name in ("torch", "triton", "cuda", "driver") if said.get(name)]
    started = ", ".join(dict.fromkeys(run.started[:16].replace("T", " ") for run in machine.runs))
    words = f"{', '.join((machine.name, *versions))}. {plural(len(machine.lines), 'measurement')}, {started}."
    if len(machine.runs) > 1:
        words += f" {len(machine.runs)} runs; where two measured the same, the later one is shown."
    return Section(
        title=", ".join((machine.name, *versions[:1])),
        sentence=words,
        device=machine.runs[-1].device,
        parts=parts(machine.lines, machine.against),
    )
