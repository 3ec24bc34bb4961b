"""Registries with the sample catalogue, embedded by the built-in model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.postgres import clone, create_database, drop_database

from toolbox_cli.cli import main
from toolbox_cli.db.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def catalogue_template(server: EmbeddedServer) -> str:
    """The name of a database with the sample catalogue, embedded by the built-in model."""
    name = "template_catalogue"
    conninfo = create_database(server, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", conninfo)
        patch.setenv("EMBEDDING_ENDPOINT_URL", "builtin")
        for command in (["migrate"], ["import", "--sample"], ["reindex"]):
            with pytest.raises(SystemExit) as ended:
                main(command)
            assert not ended.value.code
    return name


@pytest.fixture
def catalogue(server: EmbeddedServer, catalogue_template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry of the test's own with the sample catalogue; the settings name it, and the built-in model."""
    conninfo = clone(server, catalogue_template)
    monkeypatch.setenv("DATABASE_URL", conninfo)
    monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", "builtin")
    yield conninfo
    drop_database(server, conninfo)
