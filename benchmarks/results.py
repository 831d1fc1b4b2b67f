"""Tables and charts of benchmark runs: `python -m fa2verify.benchmarks.results RECORDS... --output=FOLDER`.

RECORDS are files of benchmark records, or folders that hold one; runs of one machine are shown as one. It writes
`tables.md`, and an SVG for each part that has charts: what `fa2verify report` shows, for other pages. Needs no torch.
"""

import re
from pathlib import Path

import click

from fa2verify.benchmarks.markdown import markdown
from fa2verify.reports.benchmark_parts import parts
from fa2verify.reports.benchmark_record import FILE
from fa2verify.reports.benchmark_store import Machine, machines
from fa2verify.reports.chart_file import svg


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="A folder.")
@click.option("--against", help="The kernel that speeds are ratios to; that of the run's own options if not given.")
@click.option("--kernel", "only", multiple=True, help="Show this kernel only, in the order given; repeatable.")
def main(records: tuple[Path, ...], output: Path, against: str | None, only: tuple[str, ...]) -> None:
    """Write tables and charts of RECORDS into a folder."""
    paths = [path / FILE if path.is_dir() else path for path in records]
    if missing := [path for path in paths if not path.is_file()]:
        raise click.UsageError(f"{missing[0]}: there is no such file; a benchmark run leaves {FILE}")
    found, losses = machines(paths)
    for loss in losses:
        click.echo(f"not read: {loss}", err=True)
    machine = _one(found, paths)
    shown = parts(machine.lines, against or machine.against, only)
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text(markdown(shown), encoding="utf-8")
    written = ["tables.md"]
    for part in shown:
        if drawn := svg(part):
            written.append(f"{re.sub(r'[^a-z0-9]+', '-', part.title.lower()).strip('-')}.svg")
            (output / written[-1]).write_text(drawn, encoding="utf-8")
    click.echo(f"{len(machine.lines)} measurements: {' '.join(written)}")


def _one(found: tuple[Machine, ...], paths: list[Path]) -> Machine:
    if not found:
        raise click.UsageError(f"{', '.join(map(str, paths))}: no line is that of a benchmark run")
    if len(found) > 1:
        names = "; ".join(
            f"{machine.name}, torch {machine.runs[-1].environment.get('torch', 'unknown')}" for machine in found
        )
        raise click.UsageError(f"runs in {len(found)} environments ({names}): give those of one at a time")
    return found[0]


if __name__ == "__main__":
    main()
