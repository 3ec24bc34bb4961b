"""The main job as the mission states it, the JSON that scripts rely on, and the exit codes."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.cli import DIMENSION, Outcome, Service, Toolbox, finish, run_process, start
from support.registries import column_type, dimension_of, execute, roles, rows, server_insert, value, vectors

NOMIC = "text-embedding-nomic-embed-text-v1.5"


@pytest.fixture
def legacy(alembic_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of the field that the settings of the test name."""
    monkeypatch.setenv("DATABASE_URL", alembic_database)
    return alembic_database


@pytest.fixture
def empty(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    return empty_database


@pytest.fixture
def service_768(service: Service) -> Service:
    service.behaviour.dimension = 768
    return service


def ran(*arguments: str) -> Outcome:
    outcome = run_process(*arguments)
    assert outcome.code == 0, (arguments, outcome)
    assert outcome.err == "" or "note: " in outcome.err
    return outcome


def has(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    assert set(keys) <= set(document), set(keys) - set(document)
    return document


def test_the_four_commands_on_a_registry_of_the_field(legacy: str, service_768: Service, toolbox: Toolbox) -> None:
    before = vectors(legacy)
    assert len(before) == 14
    with pytest.raises(psycopg.DataError):
        server_insert(legacy, "made_by_768", 768)

    ran("migrate", "--dimension", "768")
    assert column_type(legacy) == "vector(768)"
    ran("reindex", "--concurrency", "10")
    assert "ok: " in ran("verify").out
    found = ran("search", "calculate numbers").out

    assert len(found.splitlines()) == 6
    assert set(vectors(legacy)) >= set(before) - {"legacy_soap_bridge"} - inactive(legacy)
    assert all(text.startswith(("search_document: ", "search_query: ")) for text in service_768.stats.texts)
    server_insert(legacy, "made_by_768", 768)

    toolbox("rollback").ok()
    assert {name: sent for name, sent in vectors(legacy).items() if name in before} == before


def inactive(conninfo: str) -> set[str]:
    return {name for (name,) in rows(conninfo, "SELECT name FROM tools WHERE NOT is_active")}


def test_the_four_commands_on_an_empty_database(empty: str, service_768: Service, toolbox: Toolbox) -> None:
    toolbox("migrate", "--dimension", "768").ok()
    assert "No tool to embed" in toolbox("reindex", "--concurrency", "10").ok().out
    assert toolbox("verify").ok().out.splitlines()[-1].startswith("ok: ")
    assert "No tool was found" in toolbox("search", "calculate numbers").ok().out
    assert roles(empty) == {"current": (NOMIC, 768)}
    toolbox("import", "--sample").ok()
    toolbox("reindex").ok()
    assert service_768.stats.embedded >= 250
    server_insert(empty, "made_by_the_server", 768)


def test_the_main_job_with_nothing_but_the_built_in_model(
    legacy: str, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", "builtin")
    monkeypatch.setenv("EMBEDDING_DIMENSION", "256")
    toolbox("migrate").ok()
    assert dimension_of(legacy) == 256
    toolbox("reindex", "--concurrency", "10").ok()
    toolbox("verify").ok()
    first = toolbox("search", "calculate numbers").ok().out.splitlines()[1]
    assert first.split()[:2] == ["1", "calculator"]


def test_settings_come_from_a_dotenv_file(
    empty: str, toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    lines = [f'DATABASE_URL="{empty}"', "EMBEDDING_ENDPOINT_URL=builtin", "EMBEDDING_DIMENSION=128"]
    (tmp_path / ".env").write_text("\n".join(lines))
    toolbox("migrate").ok()
    assert dimension_of(empty) == 128


def test_without_a_database_the_embedded_one_is_used(toolbox: Toolbox, data_dir: Path) -> None:
    builtin = {"EMBEDDING_ENDPOINT_URL": "builtin"}
    toolbox("migrate", **builtin).ok()
    assert toolbox("status", "--json", **builtin).ok().json["database"]["embedded"] is True
    status = has(toolbox("db", "status", "--json").ok().json, "running", "pid", "data_dir", "version", "kept")
    assert status["running"] is False
    assert status["data_dir"] == str(data_dir.resolve())
    assert toolbox("db", "url").refused(4, "not running").err.count("toolbox db start") == 1
    toolbox("db", "start").ok()
    url = toolbox("db", "url", "--json").ok().json["url"]
    assert url.startswith("postgresql://")
    assert toolbox("db", "url").out == f"{url}\n"
    assert toolbox("status", "--json", DATABASE_URL=url).ok().json["generations"]["current"]["dimension"] == 256
    assert toolbox("db", "stop", "--json").ok().json["running"] is False


def test_json_of_migrate_status_and_the_schema_commands(
    empty: str, service: Service, toolbox: Toolbox, tmp_path: Path
) -> None:
    keys = ("steps", "losses", "retires", "notes", "dependents", "done")
    options = ("migrate", "--dimension", str(DIMENSION), "--model", "m")
    planned = has(toolbox(*options, "--dry-run", "--json").ok().json, *keys)
    assert planned["done"] is False
    assert value(empty, "SELECT to_regclass('tools') IS NULL")
    has(toolbox(*options, "--sql", "--json").ok().json, *keys[:-1])
    assert "CREATE TABLE" in toolbox(*options, "--sql").ok().out
    assert value(empty, "SELECT to_regclass('tools') IS NULL")

    unborn = toolbox("status", "--json").ok().json
    assert unborn["generations"] == {"current": None, "building": None, "previous": None}
    assert unborn["migrations"]["applied"] == []

    assert toolbox(*options, "--json").ok().json["done"] is True
    assert toolbox(*options, "--json").ok().json["done"] is False
    toolbox("import", "--sample").ok()
    toolbox("reindex").ok()
    assert toolbox("migrate", "--dimension", "9", "--model", "n", "--json").ok().json["retires"]
    service.behaviour.dimension = 9
    toolbox("reindex").ok()

    status = has(toolbox("status", "--json").ok().json, "database", "migrations", "generations")
    has(status["database"], "server_version", "pgvector_version", "embedded")
    assert len(has(status["migrations"], "applied", "pending")["applied"]) >= 3
    generations = has(status["generations"], "current", "building", "previous")
    assert generations["building"] is None
    for role, dimension in (("current", 9), ("previous", DIMENSION)):
        generation = has(generations[role], "model", "dimension", "column", "index", "census")
        assert generation["dimension"] == dimension
        has(generation["census"], "active", "fresh", "stale", "missing", "failed")
    has(generations["current"]["index"], "name", "method", "valid")

    assert toolbox("rollback", "--json").ok().json["done"] is True
    assert toolbox("prune", "--json").refused_json(1)["type"] == "NegativeAnswer"
    assert toolbox("prune", "--yes", "--json").ok().json["losses"]
    assert toolbox("prune", "--yes", "--json").ok().json["done"] is False


def test_json_of_the_tools(registry: str, service: Service, toolbox: Toolbox, tmp_path: Path) -> None:
    imported = toolbox("import", "--sample", "--json").ok().json
    assert has(imported, "created", "updated", "unchanged", "skipped", "failed", "failures")["created"] >= 150
    bad = tmp_path / "tools.jsonl"
    bad.write_text('{"name": "good", "description": "x"}\n{"description": "no name"}\n')
    partly = toolbox("import", str(bad), "--json")
    assert partly.code == 1
    assert (partly.json["created"], partly.json["failed"]) == (1, 1)
    assert has(partly.json["failures"][0], "line", "name", "error")["line"] == 2

    reindexed = has(
        toolbox("reindex", "--json").ok().json,
        *("generation", "selected", "embedded", "unchanged", "failed", "failures"),
        *("seconds", "tools_per_second", "index_seconds"),
    )
    assert reindexed["generation"] == "current"
    assert reindexed["selected"] == reindexed["embedded"]

    listed = has(toolbox("list", "--json", "--limit", "2").ok().json, "total", "tools")
    assert len(listed["tools"]) == 2 < listed["total"]
    has(listed["tools"][0], "id", "name", "description", "category", "tags", "is_active")
    assert toolbox("list", "--json", "--category", "nothing").ok().json == {"total": 0, "tools": []}

    asked = ("search", "calculate numbers", "--json", "--limit", "3", "--threshold", "-1")
    assert toolbox(*asked).ok().json["mode"] == "hybrid"
    found = toolbox(*asked, "--mode", "vector").ok().json
    has(found, "query", "mode", "model", "threshold", "results")
    assert (found["query"], found["mode"], found["threshold"]) == ("calculate numbers", "vector", -1)
    similarities = [
        has(r, "id", "name", "description", "category", "similarity")["similarity"] for r in found["results"]
    ]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)

    shown = toolbox("show", "calculator", "--json").ok().json
    has(shown, "id", "name", "description", "category", "tags", "input_schema", "is_active", "version")
    assert toolbox("show", str(shown["id"]), "--json").ok().json == shown
    assert toolbox("deactivate", "calculator", "--json").ok().json["is_active"] is False
    assert toolbox("activate", "calculator", "--json").ok().json["changed"] is True

    file = tmp_path / "out.jsonl"
    assert has(toolbox("export", str(file), "--json").ok().json, "exported", "failed")["exported"] == 251
    assert len(file.read_text().splitlines()) == 251
    assert len(toolbox("export", "--format", "mcp", "--json").ok().json["tools"]) == 251
    toolbox("export").ok()
    assert toolbox("export", "--json").refused_json(2)["hint"]

    verified = has(toolbox("verify", "--json").ok().json, "ok", "checks")
    assert verified["ok"] is True
    for check in verified["checks"]:
        assert has(check, "name", "status", "detail", "remedy")["status"] in ("pass", "warn", "fail", "skip")
    offline = toolbox("verify", "--offline", "--json").ok().json["checks"]
    assert [check["name"] for check in offline if check["status"] == "skip"] == [
        "service",
        "service_dimension",
        "drift",
        "search",
    ]


def test_json_of_what_needs_no_registry(service: Service, toolbox: Toolbox) -> None:
    trial = toolbox("embed", "hello", "--json", EMBEDDING_MODEL="m").ok().json
    has(trial, "model", "endpoint_url", "dimension", "norm", "seconds")
    assert (trial["model"], trial["dimension"], trial["endpoint_url"]) == ("m", DIMENSION, service.url)
    assert trial["norm"] == pytest.approx(1, abs=1e-4)
    known = toolbox("models", "--json").ok().json["models"]
    assert {"nomic-embed-text-v1.5", "wordllama", "text-embedding-3-large"} <= {model["name"] for model in known}


def test_exit_codes(empty: str, service: Service, toolbox: Toolbox) -> None:
    toolbox("search", "x").refused(5, "toolbox migrate")
    toolbox("migrate", "--dimension", str(DIMENSION), "--model", "m").ok()
    toolbox("show", "nobody").refused(1, "nobody")
    toolbox("show").refused(2)
    toolbox("migrate", "--dimension", "1536", "--model", "nomic-embed-text").refused(3, "768")
    toolbox("status", DATABASE_URL="postgresql://127.0.0.1:1/none").refused(4, "DATABASE_URL")
    toolbox("rollback").refused(5)
    service.stop()
    toolbox("search", "x", TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "EMBEDDING_ENDPOINT_URL")


def test_errors_in_json(registry: str, toolbox: Toolbox) -> None:
    assert toolbox("show", "nobody", "--json").refused_json(1)["type"] == "NegativeAnswer"
    assert "nosuch" in toolbox("nosuch", "--json").refused_json(2)["message"]
    assert toolbox("status", "--json", EMBEDDING_DIMENSION="x").refused_json(3)["type"] == "Configuration"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(registry: str, service: Service, number: signal.Signals) -> None:
    service.hold = threading.Event()
    process = start("search", "x")
    assert service.arrived.wait(10)
    process.send_signal(number)
    outcome = finish(process)
    service.hold.set()
    assert outcome == Outcome(130, "", "error: interrupted; what was done is kept\n")


def test_a_defect_is_logged_and_named(registry: str, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a mistake of ours: what the store is asked for is not there.
    monkeypatch.delattr("toolbox_cli.db.tools.PostgresToolStore.list")
    outcome = toolbox("list").refused(70, "AttributeError", "toolbox-defect-")
    log = Path(outcome.err.splitlines()[0].rsplit(" ", 1)[1])
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    log.unlink()


def test_search_keeps_to_the_model_that_made_the_vectors(registry: str, service: Service, toolbox: Toolbox) -> None:
    execute(registry, "UPDATE embedding_generations SET endpoint_url = %s", [service.url])
    toolbox("import", "--sample").ok()
    toolbox("reindex").ok()
    before = toolbox("search", "sums", "--json").ok()
    assert before.err == ""
    other = toolbox("search", "sums", "--json", EMBEDDING_MODEL="another-model")
    assert other.json == before.json
    assert other.err.startswith("note: EMBEDDING_MODEL is another-model")
    assert "test-model" in other.err
    local = toolbox("search", "sums", "--json", EMBEDDING_ENDPOINT_URL="builtin")
    assert local.json == before.json
    assert local.err.startswith("note: EMBEDDING_ENDPOINT_URL is builtin")
