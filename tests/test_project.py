"""The project as a whole: what the wheel holds, what the layers forbid, what the help says and costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.readme import command_paths
from typer.main import get_command

from toolbox_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
PACKAGE = ("toolbox_cli", "migrations")
MAX_LINES = 400
#: Heavy, and needed by no help: `toolbox --help` has to be quick.
NOT_FOR_HELP = ("psycopg", "numpy", "pydantic_settings", "httpx", "yoyo", "wordllama", "rich")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in the wheel, built from a copy of the sources that holds nothing else."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_the_wheel_holds_everything_that_the_program_reads(wheel: list[str]) -> None:
    expected = {f"toolbox_cli/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.py")}
    assert len(expected) >= 3
    for pattern in ("db/*.sql", "data/*", "py.typed", "**/*.py"):
        found = [path for path in (ROOT / "toolbox_cli").glob(pattern) if path.is_file()]
        expected |= {path.relative_to(ROOT).as_posix() for path in found}
    assert {"toolbox_cli/data/catalog.jsonl", "toolbox_cli/db/tools.sql"} <= expected
    assert expected - set(wheel) == set()


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    assert [name for name in wheel if not name.startswith(("toolbox_cli/", "toolbox_cli-"))] == []
    assert [name for name in wheel if "__pycache__" in name] == []
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def package_files() -> Iterator[Path]:
    for name in PACKAGE:
        for pattern in ("*.py", "*.sql"):
            yield from (ROOT / name).rglob(pattern)


def test_no_file_is_too_long_to_be_read() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in package_files()}
    assert len(lengths) > 40
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / "lint-imports"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_lint_checks_the_layers(tmp_path: Path) -> None:
    """The contracts hold, are part of ``make lint``, and notice it when a layer reaches upwards or sideways."""
    planned = subprocess.run(["make", "-n", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "lint-imports" in planned
    shutil.copytree(ROOT / "toolbox_cli", tmp_path / "toolbox_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout
    with (tmp_path / "toolbox_cli" / "core" / "search.py").open("a") as file:
        file.write("\nimport toolbox_cli.db.queries\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "toolbox_cli.core is not allowed to import toolbox_cli.db" in done.stdout


def commands() -> list[str]:
    return [" ".join(path) for path in command_paths(app)]


@pytest.mark.parametrize("path", commands())
def test_every_option_is_explained(path: str) -> None:
    command = get_command(app)
    for name in path.split():
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help, f"toolbox {path} has no help"
    context = typer.Context(command)
    silent = [parameter.name for parameter in command.get_params(context) if not getattr(parameter, "help", None)]
    assert silent == []
    if not path.startswith(("db shell", "models")):
        assert any("--json" in parameter.opts for parameter in command.get_params(context))


def test_help_loads_nothing_heavy_and_fits_a_narrow_terminal() -> None:
    """One process for all: what any of them loads is there at the end."""
    script = f"""
import sys
from toolbox_cli.cli import main
for path in {[*commands(), "", "db"]!r}:
    try:
        main([*path.split(), "--help"])
    except SystemExit as end:
        assert not end.code, path
sys.stderr.write(" ".join(name for name in {NOT_FOR_HELP!r} if name in sys.modules))
"""
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: toolbox") == len(commands()) + 2
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_a_bare_toolbox_shows_its_help() -> None:
    done = subprocess.run([str(SCRIPTS / "toolbox")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: toolbox")
