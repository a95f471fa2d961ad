# SPDX-License-Identifier: Apache-2.0
"""`kws`: the commands by name, each imported when it is used, and the exit codes.

0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import keyword
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, cast

import click

from kws.errors import KwsError, escaped, line_of

COMMANDS = (
    "train", "tune", "evaluate", "infer", "listen", "export", "import", "inspect", "profile", "verify", "features",
    "demo",
)  # fmt: skip


class _Commands(click.Group):
    """The command NAME is the object NAME in kws/cli/NAME.py; `import`, a word of Python's, is `import_` there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        python_name = f"{name}_" if keyword.iskeyword(name) else name
        return cast(click.Command, getattr(importlib.import_module(f"kws.cli.{python_name}"), python_name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click itself would print an empty line
            raise click.Abort from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="integer-kws", prog_name="kws")
def cli() -> None:
    """Find spoken keywords with networks that compute in integers.

    Train a network on recordings of words, look at it, evaluate it, find keywords in recordings, export it.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and prints no traceback for what users can cause."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name goes out with the bytes that it has
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **named: click.echo(f"kws: {escaped(str(message))}", err=True)
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        if sys.stdout is None:  # closed by the caller, as in `kws infer X.wav >&-`
            raise OSError("standard output is closed: send it to /dev/null instead")
        result = cli.main(arguments, prog_name="kws", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo(f"kws: interrupted{f'; {error}' if str(error) else ''}", err=True)
        return 130
    except KwsError as error:
        click.echo(f"kws: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone: `kws infer ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        click.echo(f"kws: {line_of(error)}", err=True)
        return 1
