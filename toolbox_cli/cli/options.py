"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Agree to everything that is asked, losses included.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Go on although views depend on a column that moves.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing at all.")]
CategoryOption = Annotated[str | None, typer.Option("--category", "-c", help="Only tools of this category.")]
InactiveOption = Annotated[bool, typer.Option("--include-inactive", help="Also tools that are switched off.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many results.")]
ToolArgument = Annotated[str, typer.Argument(metavar="ID|NAME", help="The tool's id or its name.")]
FileArgument = Annotated[str | None, typer.Argument(metavar="FILE", help="A file, or - for the standard stream.")]
BackupOption = Annotated[
    Path | None,
    typer.Option("--backup", metavar="FILE", help="First dump the database with pg_dump; stop if that fails."),
]
