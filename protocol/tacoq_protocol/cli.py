"""`tacoq`: one command, to which every installed distribution adds its own (entry points `tacoq.commands`)."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from tacoq_protocol.errors import TacoqError


class _Installed(click.Group):
    """Commands are loaded when they are called, so that `tacoq ps` does not import the manager."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group="tacoq.commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group="tacoq.commands", name=cmd_name):
            command = point.load()
            assert isinstance(command, click.Command), f"entry point {point.value} is not a click command"
            return command
        return None


@click.command(cls=_Installed, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tacoq-protocol", prog_name="tacoq")
def tacoq() -> None:
    """TacoQ, a very smart task queue."""


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    try:
        tacoq(prog_name="tacoq")
    except TacoqError as error:
        click.echo(f"tacoq: {error}", err=True)
        sys.exit(1)
