"""How --help lists commands."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """Shows the whole first paragraph of every command; Typer cuts it after some fifty characters."""

    # Typer keeps the classes of context and formatter private.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, " ".join(cleandoc(command.help or "").split("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
