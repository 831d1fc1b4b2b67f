"""`fa2verify report`: records in, one HTML file out, of one run or of several merged."""

from pathlib import Path

import click

from fa2verify.reports.html import render
from fa2verify.reports.known import known_failures
from fa2verify.reports.store import load
from fa2verify.reports.summary import lines, sentence, summarize


@click.command()
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where to write the report. Without it: index.html in DIR; several DIRs need it.",
)
def report(paths: tuple[Path, ...], output: Path | None) -> None:
    """Render the numerics report of one or more runs as a single HTML file.

    DIR is a folder that a run wrote its records to, or a file of records. Several are merged into one report: shards
    of one run, or runs on several machines. A run that was killed is read as far as it came.

    Exits with 0 once the report is written, whatever the kernels did: it was the run that judged them.
    """
    if output is None:
        if len(paths) > 1:
            raise click.UsageError("several DIRs need --output=FILE: where should the report over all of them go?")
        output = (paths[0] if paths[0].is_dir() else paths[0].parent) / "index.html"
    try:
        loaded = load(paths)
        page = render(loaded)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(str(error)) from error
    summaries = summarize(loaded)
    for line in lines(summaries):
        click.echo(line)
    for tally in known_failures(loaded):
        click.echo(tally.line)
    for loss in loaded.losses:
        click.echo(f"not read: {loss}", err=True)
    click.echo(f"{sentence(summaries)}. Report: {output}")
