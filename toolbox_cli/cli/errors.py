"""The one place where an error becomes a line on stderr, a hint and an exit code."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer.exceptions import TyperException

    from toolbox_cli.domain.errors import ToolboxError

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

#: What an output that cannot take any more says.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def guarded(command: Callable[[], int | None], *, arguments: Sequence[str], as_json: bool) -> int:
    """Run the command line and return the exit code; nothing but SystemExit gets past here."""
    from typer.exceptions import Abort, TyperException

    from toolbox_cli.cli import report
    from toolbox_cli.domain.errors import ToolboxError

    try:
        code = _finished(command)
    except ToolboxError as exc:
        hint = exc.hint or (_help_hint(arguments) if exc.exit_code == EXIT_USAGE else None)
        report.error(_kind(exc), exc.message, hint, as_json=as_json)
        return exc.exit_code
    except (Abort, KeyboardInterrupt, asyncio.CancelledError):
        report.error("Interrupted", "interrupted; what was done is kept", None, as_json=as_json)
        return EXIT_INTERRUPTED
    except TyperException as exc:
        report.error("InvalidUsage", _wrong_usage(exc), _help_hint(arguments), as_json=as_json)
        return exc.exit_code if exc.exit_code != 1 else EXIT_USAGE
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: that is its right, and no error of ours.
        _abandon_stdout()
        return 0
    except OSError as exc:
        if exc.errno not in _FULL:
            return _defect(exc, as_json=as_json)
        _abandon_stdout()
        report.error("Output", f"the output cannot be written: {exc.strerror}", "Make room for it.", as_json=as_json)
        return EXIT_NO
    except Exception as exc:
        return _defect(exc, as_json=as_json)
    return code


def _finished(command: Callable[[], int | None]) -> int:
    """The exit code of a command whose output has left: what cannot leave must be said while it can be."""
    try:
        code = command() or 0
    except SystemExit as exc:
        # typer answers a closed pipe with 1, which means "the answer is no".
        if isinstance(exc.__context__, BrokenPipeError):
            raise exc.__context__ from None
        raise
    if code == EXIT_INTERRUPTED:
        # typer makes a silent exit of Ctrl-C.
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code


def _abandon_stdout() -> None:
    """What is left in the buffer goes nowhere, so that the interpreter does not complain of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _wrong_usage(exc: TyperException) -> str:
    """What was found and what was expected; typer's own words leave the first out."""
    from pydantic import ValidationError

    param, cause = getattr(exc, "param", None), exc.__cause__
    details = cause.errors()[0] if isinstance(cause, ValidationError) and cause.errors() else None
    if param is None or details is None:
        text = exc.format_message().rstrip(".")
        return text[:1].lower() + text[1:]
    name = max(param.opts, key=len) if param.opts[0].startswith("-") else param.metavar or param.name
    limits = details.get("ctx", {})
    expected = {
        "greater_than_equal": f"at least {limits.get('ge')}",
        "less_than_equal": f"at most {limits.get('le')}",
        "int_parsing": "an integer",
        "float_parsing": "a number",
    }.get(details["type"])
    if expected is not None:
        return f"{name} is {details['input']!r}, expected {expected}"
    return f"{name}: {details['msg'].removeprefix('Value error, ').rstrip('.')}"


def _help_hint(arguments: Sequence[str]) -> str:
    """The command whose help says how it is done."""
    from toolbox_cli.cli import command_path

    return f"`{' '.join(['toolbox', *command_path(arguments), '--help'])}` shows how it is used."


def _defect(exc: Exception, *, as_json: bool) -> int:
    from toolbox_cli.cli import report

    message = f"a defect of toolbox: {type(exc).__name__}; the traceback is in {_log_defect()}"
    report.error("Defect", message, "Please report it with that file.", as_json=as_json)
    return EXIT_DEFECT


def _kind(exc: ToolboxError) -> str:
    return type(exc).__name__.removesuffix("Error")


def _log_defect() -> Path:
    """Write the traceback to a new file that only its owner can read: it may hold what must not be printed."""
    with tempfile.NamedTemporaryFile("w", prefix="toolbox-defect-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
