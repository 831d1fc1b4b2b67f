"""`fa2verify compare`: what moved between two runs, in words, as a page, and as an exit status for CI."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from fa2verify.reports.benchmark_comparison import DRIFT, BenchmarkComparison
from fa2verify.reports.benchmark_comparison import compare as compare_benchmarks
from fa2verify.reports.benchmark_store import BenchmarksError, file_in
from fa2verify.reports.benchmark_store import load as load_benchmarks
from fa2verify.reports.comparison import GROWTH, Comparison, NothingInCommon, compare
from fa2verify.reports.comparison_page import render
from fa2verify.reports.failures import rerun
from fa2verify.reports.significance import LEVEL
from fa2verify.reports.store import Loaded, holds_records, load
from fa2verify.reports.summary import plural, short
from fa2verify.reports.timings import NOISE, TimingsError

_SHOWN = 20  # of each kind; the page has more


@click.command("compare")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write a page, too.")
@click.option("--against", help="The kernel that times are over; that of run A's benchmarks if not given.")
def compare_runs(a: Path, b: Path, html: Path | None, against: str | None) -> None:
    """Say what is worse, and what is better, in run B than in run A.

    A and B are folders that runs wrote to, or files: records of two runs of the suite, or the benchmarks.jsonl of two
    runs of benchmarks. Folders that hold both are compared in both.

    The same problem on the same kernel is compared one by one. Where runs drew different problems: failing more often,
    for each kernel and feature, by Fisher's exact test; errors, for each kernel and output, by the sign test over the
    same problems or Mann and Whitney's U test over all. All at the level 0.01 after Holm's correction, one-sided.

    Of benchmarks: what B could not measure; times of each kernel over those of one kernel in the same rounds, by the U
    test; peak memory that grew by more than rounding; trainings slower by more than clocks drift.

    Exits with 0 if nothing is worse, 1 if something is, 2 if the two cannot be read or compared.
    """
    try:
        measured = _measured(a, b, against)
        found = _judged(a, b, needed=measured is None)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(render(found, measured, (str(a), str(b))), encoding="utf-8")
    except (OSError, BenchmarksError, TimingsError, NothingInCommon) as error:
        raise click.UsageError(str(error)) from error
    for line in lines(found, measured):
        click.echo(line)
    worse = any(one is not None and one.worse for one in (found, measured))
    click.echo("B is worse." if worse else "Nothing is worse in B.")
    raise SystemExit(1 if worse else 0)


def lines(found: Comparison | None, measured: BenchmarkComparison | None) -> Iterator[str]:
    """The comparison as lines of text, what is worse first."""
    if found is not None:
        yield from _verdicts(found)
        yield from _shifts(found)
        yield from _environments(found.environment)
    if measured is not None:
        yield from _measurements(measured)
        # Both may be of the same two machines, which then need not be told apart twice.
        yield from _environments(
            {
                name: pair
                for name, pair in measured.environment.items()
                if found is None or found.environment.get(name) != pair
            }
        )


def _environments(differing: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for name, (one, other) in differing.items():
        yield f"differs: {name}: {one or 'not said'} in A, {other or 'not said'} in B"


def _measurements(found: BenchmarkComparison) -> Iterator[str]:
    yield f"{plural(found.common, 'measurement')} tried in both"
    if found.device == "cpu":
        yield "  of a CPU, whose times say only that the benchmarks work"
    for word, of_kind in (
        ("newly fails", [lapse for lapse in found.lapses if lapse.worse]),
        ("no longer taken", [lapse for lapse in found.lapses if not lapse.worse]),
    ):
        if of_kind:
            yield f"{word}: {len(of_kind):,}"
        yield from (f"  {lapse.outcome}: {lapse.name}: {lapse.message}" for lapse in of_kind[:_SHOWN])
    slower, faster = ([pace for pace in found.paces.over if getattr(pace, word)] for word in ("slower", "faster"))
    yield (
        f"{plural(len(found.paces.over), 'cell')} timed in both, over {found.against}: "
        f"{len(slower)} slower, {len(faster)} faster by more than {NOISE:g}x"
    )
    for word, moved in (("slower", slower), ("faster", faster)):
        yield from (
            f"  {word}: {pace.name}: {pace.a:.3f} to {pace.b:.3f}, {pace.b / pace.a:.2f}x" for pace in moved[:_SHOWN]
        )
    if found.paces.without:
        yield f"{plural(found.paces.without, 'cell')} timed in both, but not over {found.against}: it has no time there"
    grown = [memory for memory in found.memories if memory.worse]
    yield f"{plural(len(found.memories), 'peak')} of memory: {len(grown)} grew by more than rounding"
    yield from (f"  more memory: {memory.name}: {memory.a:,} to {memory.b:,} bytes" for memory in grown[:_SHOWN])
    if found.trainings:
        slowed = [training for training in found.trainings if training.worse]
        yield f"{plural(len(found.trainings), 'training')}: {len(slowed)} slower by more than {DRIFT:g}x"
        yield from (
            f"  slower: {training.name}: {training.a:,.0f} to {training.b:,.0f} tokens/s"
            for training in slowed[:_SHOWN]
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


def _measured(a: Path, b: Path, against: str | None) -> BenchmarkComparison | None:
    """What benchmarks say; None if not both have any."""
    files = [file_in(path) for path in (a, b)]
    if files[0] is not None and files[1] is not None:
        return compare_benchmarks(load_benchmarks(files[0]), load_benchmarks(files[1]), against)
    _leave_out("benchmarks", [file is not None for file in files])
    return None


def _judged(a: Path, b: Path, needed: bool) -> Comparison | None:
    """What verdicts say; None if not both have any and there is something else."""
    if not needed:
        held = [path.is_dir() and holds_records(path) for path in (a, b)]
        if not all(held):
            _leave_out("verdicts", held)
            return None
    return compare(_loaded(a), _loaded(b))


def _leave_out(what: str, held: list[bool]) -> None:
    if any(held):
        click.echo(f"not compared: {what}, which {'A' if held[0] else 'B'} alone has", err=True)


def _loaded(path: Path) -> Loaded:
    loaded = load([path])
    for loss in loaded.losses:
        click.echo(f"not read: {loss}", err=True)
    if not loaded.records:
        raise NothingInCommon(f"{path}: holds no verdict")
    return loaded
