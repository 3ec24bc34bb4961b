"""Aligned columns and hanging indents: cut to the width of a terminal, whole and without padding in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolbox_cli.cli.report import plain

#: Between two columns.
_GAP = 2
#: What is left of a column, and of the last one (the description), when a terminal is too narrow for all.
_LEAST, _LEAST_OF_LAST = 12, 24


class _Paper(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process with 1, which means "the answer is no".
        raise BrokenPipeError


def paper() -> Console:
    """Standard output. A pipe has no width: lines are left whole there, so that grep and awk see all of them."""
    terminal = sys.stdout.isatty()
    return _Paper(highlight=False, soft_wrap=not terminal, width=None if terminal else 10_000)


@dataclass(frozen=True)
class Column:
    """``fixed`` columns are never cut; of the others the widest gives way first, the last one before them."""

    header: str
    style: str = ""
    right: bool = False
    fixed: bool = False


def columns(console: Console, heads: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """One line a row, whatever the width."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(cell_len(head.header), *(cell_len(row[i]) for row in cells)) for i, head in enumerate(heads)]
    if console.is_terminal:
        _narrow(widths, heads, console.width)
    lines = [_line([head.header for head in heads], heads, widths, header=True)]
    lines += [_line(row, heads, widths) for row in cells]
    if console.is_terminal:
        for line in lines:
            console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        sys.stdout.writelines(f"{line.plain}\n" for line in lines)


def _narrow(widths: list[int], heads: Sequence[Column], available: int) -> None:
    excess = sum(widths) + _GAP * (len(widths) - 1) - available
    last = len(widths) - 1
    if excess > 0 and not heads[last].fixed:
        taken = min(excess, max(0, widths[last] - _LEAST_OF_LAST))
        widths[last] -= taken
        excess -= taken
    loose = [i for i, head in enumerate(heads) if not head.fixed and i != last]
    while excess > 0 and loose:
        widest = max(loose, key=widths.__getitem__)
        if widths[widest] <= _LEAST:
            return
        widths[widest] -= 1
        excess -= 1


def _line(row: Sequence[str], heads: Sequence[Column], widths: Sequence[int], *, header: bool = False) -> Text:
    line = Text()
    for cell, head, width in zip(row, heads, widths, strict=True):
        text = Text(cell, style="dim" if header else head.style)
        text.truncate(width, overflow="ellipsis")
        blank = " " * (width - text.cell_len)
        line.append_text(Text.assemble(blank, text) if head.right else Text.assemble(text, blank))
        line.append(" " * _GAP)
    line.rstrip()
    return line


def labelled(console: Console, label: Text | str, text: Text | str, *, indent: int) -> None:
    """A label and its text; further lines of the text stand under its first."""
    label = Text(label) if isinstance(label, str) else label
    text = Text(text) if isinstance(text, str) else text
    if console.is_terminal:
        grid = Table.grid()
        grid.add_column(width=indent, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(label, text)
        console.print(grid)
    else:
        sys.stdout.write(f"{label.plain:<{indent}}{text.plain}".rstrip() + "\n")


def bar(part: float, whole: float, width: int = 12) -> str:
    """A share as a bar: empty only where it is nothing, full only where it is everything."""
    if whole <= 0 or part <= 0:
        return "░" * width
    filled = width if part >= whole else max(1, min(width - 1, round(width * part / whole)))
    return "█" * filled + "░" * (width - filled)
