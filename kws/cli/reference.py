# SPDX-License-Identifier: Apache-2.0
"""docs/cli.md out of the help texts: ``python -m kws.cli.reference > docs/cli.md``."""

from __future__ import annotations

import click

from kws.cli.main import cli

_WIDTH = 100
_HEAD = """# Command line

Every command with its options, as `kws COMMAND --help` prints them. Exit codes: 0 done, 1 failed (also when one of many
files failed), 2 wrong usage, 130 interrupted. Results go to standard output, messages and progress to standard error.
"""


def render() -> str:
    """The content of docs/cli.md."""
    root = click.Context(cli, info_name="kws", terminal_width=_WIDTH, **cli.context_settings)
    parts = [_HEAD, _section("kws", cli.get_help(root))]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, terminal_width=_WIDTH)
        parts.append(_section(f"kws {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    print(render(), end="")
