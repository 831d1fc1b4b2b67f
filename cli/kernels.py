"""`fa2verify kernels`: every kernel, where it comes from, whether it can run here and what it takes."""

from collections import defaultdict
from collections.abc import Iterator
from textwrap import wrap

import click
import torch

from fa2verify.kernels import answers
from fa2verify.kernels.features import FEATURES
from fa2verify.kernels.registry import KernelSpecError, Registered, select
from fa2verify.kernels.support import unsupported_features
from fa2verify.verify.known_failures.built_in import LEDGER
from fa2verify.verify.known_failures.ledger import Place

_WIDTH = 80


@click.command()
@click.option(
    "--kernel", "specs", metavar="SPEC", multiple=True, help="A name, module:object or file.py:object; repeatable."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the kernels would run.",
)
def kernels(specs: tuple[str, ...], device: str) -> None:
    """List the kernels and what each supports here.

    Without --kernel: the built-in ones and those of installed packages. Exits with 2 if a kernel cannot be found.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        selected = select(specs)
    except KernelSpecError as error:
        raise click.UsageError(str(error)) from error
    place = torch.device(device)
    for registered in selected:
        click.echo("\n".join(describe(registered, place)) + "\n")
    runnable = sum(not answers.unavailable(registered.kernel, place) for registered in selected)
    click.echo(f"{runnable} of {len(selected)} kernels can run on {device}.")


def describe(registered: Registered, device: torch.device) -> Iterator[str]:
    """One kernel, lines of at most 80 columns where its words allow."""
    kernel = registered.kernel
    missing = answers.unavailable(kernel, device)
    yield f"{kernel.name}: {'unavailable' if missing else 'available'} on {device.type}"
    yield from _entry("lineage", kernel.lineage)
    yield from _entry("origin", registered.origin)
    for reason in missing:
        yield from _entry("why not", reason)
    if missing:
        yield from _known(kernel.name, device)
        return
    lacking = unsupported_features(kernel)
    yield from _entry("supports", ", ".join(feature for feature in FEATURES if feature not in lacking))
    # Features that fail for the same reasons stand together: the reader wants the reason once.
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for feature, reasons in lacking.items():
        together[reasons].append(feature)
    for reasons, features in together.items():
        yield from _entry("lacks", f"{', '.join(features)}: {' '.join(reasons)}")
    yield from _known(kernel.name, device)


def _known(kernel: str, device: torch.device) -> Iterator[str]:
    place = Place.here(device.type) if device.type == "cpu" or torch.cuda.is_available() else Place(device.type)
    for entry in LEDGER.of(kernel):
        here = "" if entry.holds(place) else ", so not here"
        yield from _entry("known", f"{entry.says} {entry.link} (with {entry.where}{here})")


def _entry(title: str, text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=f"  {title:<9} ", subsequent_indent=" " * 12, break_long_words=False)
