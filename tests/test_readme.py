"""README.md says what the program does: ``make docs`` brings it up to date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import readme

from toolbox_cli.domain import errors
from toolbox_cli.domain.settings import Settings

TEXT = readme.README.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def not_the_test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples bring their own data folder."""
    monkeypatch.delenv("TOOLBOX_DATA_DIR")


def test_it_opens_with_the_two_commands() -> None:
    first = TEXT.split("```")[1].splitlines()[1:]
    assert [line.split()[:2] for line in first if line] == [["make", "demo"], ["make", "test"]]


def test_the_command_reference_is_the_help() -> None:
    written = TEXT.split(readme.BEGIN)[1].split(readme.END)[0]
    assert written == readme.reference(), "run `make docs`"


@pytest.mark.slow
def test_the_examples_print_what_is_written() -> None:
    examples = readme.examples(TEXT)
    assert len(examples) >= 5
    with readme.example_environment() as (folder, environment):
        for example in examples:
            found = readme.run_example(example, folder, environment)
            assert readme.normalised(found) == readme.normalised(example), "run `make docs` if this is meant"


def test_the_examples_show_the_main_job() -> None:
    shown = [command for example in readme.examples(TEXT) for command in readme.commands_of(example)]
    for command in ("toolbox migrate", "toolbox reindex --concurrency 10", "toolbox verify"):
        assert any(line.startswith(command) for line in shown), command
    assert 'toolbox search "calculate numbers"' in shown


def test_every_setting_is_in_the_table() -> None:
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    assert len(names) >= 5
    assert [name for name in names if f"| `{name}` |" not in TEXT] == []


def test_every_exit_code_is_in_the_table() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {kind.exit_code for kind in classes if issubclass(kind, errors.ToolboxError)}
    assert codes >= {1, 2, 3, 4, 5, 6, 70, 130}
    assert [code for code in sorted(codes | {0}) if f"| {code} |" not in TEXT] == []


def test_every_local_link_leads_somewhere() -> None:
    targets = {part.split(")")[0] for part in TEXT.split("](")[1:]}
    local = [target for target in targets if not target.startswith(("http", "#"))]
    assert [target for target in local if not Path(os.path.join(readme.README.parent, target)).exists()] == []
