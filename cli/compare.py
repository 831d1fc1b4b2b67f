"""`fa2verify compare`: what moved between two runs, in words, as a page, and as an exit status for CI."""

from collections.abc import Iterator
from pathlib import Path

import click

from fa2verify.reports.comparison import GROWTH, Comparison, NothingInCommon, compare
from fa2verify.reports.comparison_page import render
from fa2verify.reports.failures import rerun
from fa2verify.reports.significance import LEVEL
from fa2verify.reports.store import Loaded, load
from fa2verify.reports.summary import plural, short
from fa2verify.reports.timings import NOISE, Pace, TimingsError, paces, read

_RACE = "race.json"
_SHOWN = 20  # of each kind; the page has more


@click.command("compare")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write a page, too.")
@click.option(
    "--against",
    default="torch-flash",
    show_default=True,
    help="The kernel that times are divided by before they are compared.",
)
def compare_runs(a: Path, b: Path, html: Path | None, against: str) -> None:
    """Say what is worse, and what is better, in run B than in run A.

    A and B are folders that runs wrote to, or files: records (.jsonl) of two runs, or what
    `python -m fa2verify.verify.race --json` wrote (.json). Folders that both hold a race.json are compared in that too.

    The same problem on the same kernel is compared one by one. Where runs drew different problems: failing more often,
    for each kernel and feature, by Fisher's exact test; errors, for each kernel and output, by the sign test over the
    same problems or Mann and Whitney's U test over all. All at the level 0.01 after Holm's correction, one-sided.

    Exits with 0 if nothing is worse, 1 if something is, 2 if the two cannot be read or compared.
    """
    try:
        found = _records(a, b)
        times = _times(a, b, against)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(render(found, times, (str(a), str(b)), against), encoding="utf-8")
    except (OSError, TimingsError, NothingInCommon) as error:
        raise click.UsageError(str(error)) from error
    for line in lines(found, times, against):
        click.echo(line)
    worse = (found is not None and found.worse) or any(pace.slower for pace in times)
    click.echo("B is worse." if worse else "Nothing is worse in B.")
    raise SystemExit(1 if worse else 0)


def lines(found: Comparison | None, times: tuple[Pace, ...], against: str) -> Iterator[str]:
    """The comparison as lines of text, what is worse first."""
    if found is not None:
        yield from _verdicts(found)
        yield from _shifts(found)
        for name, (one, other) in found.environment.items():
            yield f"differs: {name}: {one or 'not said'} in A, {other or 'not said'} in B"
    if times:
        slower, faster = [pace for pace in times if pace.slower], [pace for pace in times if pace.faster]
        yield (
            f"{plural(len(times), 'cell')} timed in both, over {against}: "
            f"{len(slower)} slower, {len(faster)} faster by more than {NOISE:g}x"
        )
        for word, moved in (("slower", slower), ("faster", faster)):
            yield from (
                f"  {word}: {pace.name}: {pace.a:.3f} to {pace.b:.3f}, {pace.b / pace.a:.2f}x"
                for pace in moved[:_SHOWN]
            )


def _verdicts(found: Comparison) -> Iterator[str]:
    yield f"{plural(found.common, 'problem')} judged in both"
    for word, turned in (
        ("newly fails", found.fails),
        ("newly passes", found.passes),
        ("no longer taken", found.narrowed),
    ):
        if turned:
            yield f"{word}: {len(turned):,}"
        for one in turned[:_SHOWN]:
            rule = f", {one.b.rule}" if one.b.rule else ""
            yield f"  {one.b.verdict}{rule}: {rerun(one.b.kernel, one.b.problem, one.b.rule)}"
    for side, kernels in (("A", found.only_a), ("B", found.only_b)):
        if kernels:
            yield f"judged in {side} alone: {', '.join(kernels)}"


def _shifts(found: Comparison) -> Iterator[str]:
    rates = [shift for shift in found.rates if shift.worse]
    yield (
        f"{plural(len(found.rates), 'failure rate')} of problems that only one has: "
        f"{len(rates)} higher in B (p < {LEVEL})"
    )
    for rate in rates[:_SHOWN]:
        feature = f", {rate.feature}" if rate.feature else ""
        yield (
            f"  fails more often: {rate.kernel}{feature}: {rate.bad_a:,} of {rate.judged_a:,} in A, "
            f"{rate.bad_b:,} of {rate.judged_b:,} in B, p = {rate.p:.1e}"
        )
    grown = [shift for shift in found.errors if shift.worse]
    yield (
        f"{plural(len(found.errors), 'distribution')} of errors: {len(grown)} larger in B "
        f"(p < {LEVEL}, median more than {GROWTH:g}x)"
    )
    for error in grown[:_SHOWN]:
        yield (
            f"  larger error: {error.kernel} {error.output}, {error.measure}: median {short(error.median_a)} to "
            f"{short(error.median_b)} ({'the same' if error.paired else 'other'} problems, {error.tensors_a:,} and "
            f"{error.tensors_b:,} tensors), p = {error.p:.1e}"
        )


def _records(a: Path, b: Path) -> Comparison | None:
    if all(path.suffix == ".json" and not path.is_dir() for path in (a, b)):
        return None
    return compare(_loaded(a), _loaded(b))


def _loaded(path: Path) -> Loaded:
    loaded = load([path])
    for loss in loaded.losses:
        click.echo(f"not read: {loss}", err=True)
    if not loaded.records:
        raise NothingInCommon(f"{path}: holds no verdict")
    return loaded


def _times(a: Path, b: Path, against: str) -> tuple[Pace, ...]:
    files = [path / _RACE if path.is_dir() else path for path in (a, b)]
    if not all(file.suffix == ".json" and (file.exists() or file in (a, b)) for file in files):
        return ()
    return paces(read(files[0]), read(files[1]), against)
