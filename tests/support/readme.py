"""The parts of README.md that are made by running toolbox: the command reference and the examples.

``make docs`` writes them anew; ``tests/test_readme.py`` fails where the README says something else than the program.

The reference stands between ``<!-- begin: commands -->`` and ``<!-- end: commands -->``. An example is a fenced
``console`` block; its ``$`` lines are run in order, all examples in one empty folder with one embedded database, and
what follows a ``$`` line is what the command prints (stdout and stderr, then ``[exit N]`` where N is not 0).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- begin: commands -->\n", "<!-- end: commands -->\n"

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from run to run and from machine to machine.
_VARYING = (
    (re.compile(r"/[^\s']*/data\b"), "DATA"),
    (re.compile(r"\(process \d+\)"), "(process N)"),
    (re.compile(r"\d+\.\d+ (s|ms)\b"), r"TIME \1"),
    (re.compile(r"longer than \d+ ms"), "longer than N ms"),
    (re.compile(r"about \d+ s at"), "about N s at"),
    (re.compile(r"^(embedding|database), ms .*$", re.MULTILINE), r"\1, ms N"),
    (re.compile(r"[\d,]+ tools/s"), "N tools/s"),
    (re.compile(r"\b([01]\.\d{2})\d+\b"), r"\1"),
    (re.compile(r"(PostgreSQL|pgvector) \d[\d.]*"), r"\1 VERSION"),
    (re.compile(r"[█▉▊▋▌▍▎▏░]+"), "BAR"),
    (re.compile(r"[ \t]+"), " "),
)


@contextlib.contextmanager
def example_environment() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty folder to run examples in, and their environment; the server is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="toolbox-readme-") as name:
        base = Path(name)
        # As root, PostgreSQL's unprivileged account has to pass here.
        base.chmod(0o711)
        folder = base / "folder"
        folder.mkdir()
        environment = _environment() | {"EMBEDDING_ENDPOINT_URL": "builtin", "TOOLBOX_DATA_DIR": str(base / "data")}
        # Kept running, so that each example need not start it; the examples show the same without.
        _shell("toolbox db start", folder, environment)
        try:
            yield folder, environment
        finally:
            _shell("toolbox db stop", folder, environment)


def examples(text: str) -> list[str]:
    """The contents of the console blocks, in order."""
    return _BLOCK.findall(text)


def commands_of(example: str) -> list[str]:
    """The command lines of an example."""
    return [line.removeprefix("$ ") for line in example.splitlines() if line.startswith("$ ")]


def run_example(example: str, folder: Path, environment: dict[str, str]) -> str:
    """The example with what its commands print now, a blank line between them."""
    return "\n".join(f"$ {command}\n{_shell(command, folder, environment)}" for command in commands_of(example))


def normalised(example: str) -> str:
    """An example without what may differ from run to run."""
    for pattern, replacement in _VARYING:
        example = pattern.sub(replacement, example)
    return "\n".join(line.rstrip() for line in example.splitlines())


def reference() -> str:
    """The help of every command, in the order of ``toolbox --help``."""
    from toolbox_cli.cli import app

    parts = ["```text", _help(), "```", ""]
    for path in command_paths(app):
        parts += [f"### toolbox {' '.join(path)}", "", "```text", _help(*path), "```", ""]
    return "\n".join(parts)


def command_paths(app: object) -> list[tuple[str, ...]]:
    """Every command that does something: ``("migrate",)``, ``("db", "start")`` …"""
    from typer.main import get_command

    found: list[tuple[str, ...]] = []

    def visit(command: object, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found.append(path)
            return
        for name, child in children.items():
            visit(child, (*path, name))

    visit(get_command(app), ())  # type: ignore[arg-type]
    return found


def with_reference(text: str) -> str:
    """The README's text with the command reference made anew."""
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return before + BEGIN + reference() + END + after


def with_examples(text: str) -> str:
    """The README's text with its examples run anew."""
    with example_environment() as (folder, environment):

        def fresh(match: re.Match[str]) -> str:
            return f"```console\n{run_example(match.group(1), folder, environment)}```"

        return _BLOCK.sub(fresh, text)


def _help(*path: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "toolbox_cli", *path, "--help"],
        env=_environment() | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def _shell(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    if done.returncode:
        lines.append(f"[exit {done.returncode}]")
    return "".join(f"{line}\n" for line in lines)


def _environment() -> dict[str, str]:
    """The process's own without any setting of the developer's, and with this Python's toolbox first in PATH."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "NO_COLOR", "FORCE_COLOR", "LANGUAGE")
        and not name.startswith(("EMBEDDING_", "TOOLBOX_", "PG", "LC_"))
    }
    scripts = Path(sys.executable).parent
    return clean | {
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "PSQLRC": os.devnull,
    }


if __name__ == "__main__":
    README.write_text(with_examples(with_reference(README.read_text(encoding="utf-8"))), encoding="utf-8")
