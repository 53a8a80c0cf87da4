"""The command line. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from thalweg import __version__
from thalweg.errors import ThalwegError, UserCodeError, UserError, unknown


class Commands(click.Group):
    """A group that offers the nearest command for a misspelt one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(str(unknown("command", args[0], self.list_commands(ctx))))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="thalweg")
def commands() -> None:
    """Choose an optimizer for your PyTorch model by measurement.

    \b
    thalweg compare digits-mlp                  tune five optimizers alike, and say which to choose
    thalweg compare data.csv --target price     the same for a table of yours
    thalweg list optimizers                     what there is
    """


for _module in ("studies", "training", "solving", "diagnosing", "tracing"):  # in the order in which --help lists them
    importlib.import_module(f"thalweg.cli.{_module}").add_to(commands)


def main() -> None:
    """The entry point: 0 done, 2 the user's mistake, 1 anything else, 130 interrupted."""
    try:
        code = commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing that was finished is lost", err=True)
        code = 130
    except UserError as error:
        if isinstance(error, UserCodeError):
            click.echo(error.frames, err=True)
        click.echo(f"thalweg: {error}", err=True)
        code = 2
    except ThalwegError as error:
        click.echo(f"thalweg: {error}", err=True)
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
