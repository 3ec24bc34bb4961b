"""The one place where an error becomes a line on stderr, a hint and an exit code."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolbox_cli.domain.errors import ToolboxError

EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130


def guarded(command: Callable[[], int | None], *, as_json: bool) -> int:
    """Run the command line and return the exit code; nothing but SystemExit gets past here."""
    from typer.exceptions import Abort, Exit, TyperException

    from toolbox_cli.cli import report
    from toolbox_cli.domain.errors import ToolboxError

    try:
        return command() or 0
    except Exit as exc:
        return exc.exit_code
    except ToolboxError as exc:
        report.error(_kind(exc), exc.message, exc.hint, as_json=as_json)
        return exc.exit_code
    except (Abort, KeyboardInterrupt, asyncio.CancelledError):
        report.error("Interrupted", "interrupted; what was done is kept", None, as_json=as_json)
        return EXIT_INTERRUPTED
    except TyperException as exc:
        hint = "See --help of the command."
        report.error("InvalidUsage", exc.format_message(), hint, as_json=as_json)
        return exc.exit_code if exc.exit_code != 1 else EXIT_USAGE
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: that is its right, and no error of ours.
        sys.stderr.close()
        return 0
    except Exception as exc:
        log = _log_defect()
        message = f"a defect of toolbox: {type(exc).__name__}; the traceback is in {log}"
        report.error("Defect", message, "Please report it with that file.", as_json=as_json)
        return EXIT_DEFECT


def _kind(exc: ToolboxError) -> str:
    return type(exc).__name__.removesuffix("Error")


def _log_defect() -> Path:
    """Write the traceback to a new file that only its owner can read: it may hold what must not be printed."""
    with tempfile.NamedTemporaryFile("w", prefix="toolbox-defect-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
