"""`fa2verify report`: records and benchmarks in, one HTML file out, of one run or of several merged."""

from pathlib import Path

import click

from fa2verify.reports import benchmark_section
from fa2verify.reports.html import render
from fa2verify.reports.known import known_failures
from fa2verify.reports.sources import NothingToReport, load
from fa2verify.reports.summary import lines, sentence, summarize


@click.command()
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where to write the report. Without it: index.html in DIR; several DIRs need it.",
)
def report(paths: tuple[Path, ...], output: Path | None) -> None:
    """Render the report of one or more runs as a single HTML file.

    DIR is a folder that a run wrote to, or a file: records of the suite, or the benchmarks.jsonl of a run of
    benchmarks; a folder may hold both. Several are merged into one report: shards of one run, or runs on several
    machines. A run that was killed is read as far as it came.

    Exits with 0 once the report is written, whatever the kernels did: it was the run that judged them.
    """
    if output is None:
        if len(paths) > 1:
            raise click.UsageError("several DIRs need --output=FILE: where should the report over all of them go?")
        output = (paths[0] if paths[0].is_dir() else paths[0].parent) / "index.html"
    try:
        sources = load(paths)
        page = render(sources.loaded, sources.machines)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except (OSError, NothingToReport) as error:
        raise click.ClickException(str(error)) from error
    summaries = summarize(sources.loaded)
    for line in lines(summaries):
        click.echo(line)
    for tally in known_failures(sources.loaded):
        click.echo(tally.line)
    for loss in sources.loaded.losses:
        click.echo(f"not read: {loss}", err=True)
    if sources.machines:
        click.echo(f"{benchmark_section.sentence(sources.machines)}.")
    said = f"{sentence(summaries)}. " if summaries or not sources.machines else ""
    click.echo(f"{said}Report: {output}")
