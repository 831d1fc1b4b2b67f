"""The command `fa2verify`: a group of subcommands, each imported when it is run.

torch takes seconds to import; `fa2verify --help` must not. So the group knows its subcommands by name, and the line of
help that it shows for each stands here instead of in a module that would have to be imported for it.
"""

import importlib
from typing import NamedTuple

import click


class Subcommand(NamedTuple):
    """Where a subcommand lies, and what the group's help says of it."""

    module: str
    attribute: str
    help: str


_SUBCOMMANDS: dict[str, Subcommand] = {
    "check": Subcommand("fa2verify.cli.check", "check", "Run one problem on one kernel and show the verdict."),
    "compare": Subcommand("fa2verify.cli.compare", "compare_runs", "Say what moved between two runs."),
    "kernels": Subcommand("fa2verify.cli.kernels", "kernels", "List the kernels and what each supports here."),
    "report": Subcommand("fa2verify.cli.report", "report", "Render a report, merging runs."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, D102 - click's interface
        return sorted(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002, D102
        if cmd_name not in _SUBCOMMANDS:
            return None
        place = _SUBCOMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(place.module), place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002, D102
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUBCOMMANDS[name].help) for name in sorted(_SUBCOMMANDS)])


@click.group(cls=LazyGroup)
@click.version_option(package_name="fa2verify")
def main() -> None:
    """Verify attention kernels: correctness and numerics."""
