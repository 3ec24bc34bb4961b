"""Progress on stderr: a bar with rate and time left on a terminal, nothing in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.cli import report
from toolbox_cli.domain.ports import SilentProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class BarProgress:
    """One bar at a time; it is gone when it is finished, the summary says what it counted."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self.finish()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(label, total=total, rate="")

    def advance(self, count: int) -> None:
        if self._bar is None or self._task is None:
            return
        self._bar.advance(self._task, count)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:,.0f}/s" if speed else "")

    def note(self, message: str) -> None:
        if self._bar is not None:
            self._bar.console.print(message, style="dim", markup=False)
        else:
            self._console.print(message, style="dim", markup=False)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


class NotedProgress(SilentProgress):
    """No bar, but remarks are worth a line also in a log file."""

    def note(self, message: str) -> None:
        report.note(message)
