"""Bad input gets one clear line, a hint and its exit code; nothing is written, and no secret is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.cli import DIMENSION, Outcome, Service, Toolbox
from support.registries import catalogue_of, execute, rows, value

from toolbox_cli.db.embedded import EmbeddedServer

SECRET = "s3cret-0f-the-test"
UNREACHABLE = "http://127.0.0.1:9/v1/embeddings"


@pytest.fixture
def empty(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    return empty_database


@pytest.fixture
def untouched(registry: str) -> Iterator[str]:
    """A registry of which nothing may be different afterwards."""
    execute(registry, "CREATE TABLE witness (x int)")
    before = catalogue_of(registry)
    yield registry
    assert catalogue_of(registry) == before


@pytest.mark.parametrize("given", ["0", "-1", "99999", "abc", "768.5", ""])
def test_a_dimension_that_cannot_be(toolbox: Toolbox, untouched: str, given: str) -> None:
    toolbox("migrate", "--dimension", given).refused(2, "--dimension", given)


@pytest.mark.parametrize("given", ["0", "-1", "99999", "abc", "768.5"])
def test_a_dimension_in_the_environment_that_cannot_be(toolbox: Toolbox, untouched: str, given: str) -> None:
    toolbox("migrate", EMBEDDING_DIMENSION=given).refused(3, "EMBEDDING_DIMENSION", given)
    toolbox("status", EMBEDDING_DIMENSION=given).refused(3, "EMBEDDING_DIMENSION", given)


def test_a_model_and_a_dimension_that_cannot_be_together(toolbox: Toolbox, untouched: str) -> None:
    nomic = {"EMBEDDING_MODEL": "text-embedding-nomic-embed-text-v1.5"}
    toolbox("migrate", "--dimension", "1536", **nomic).refused(3, "nomic", "1536", "768")
    toolbox("migrate", EMBEDDING_DIMENSION="1536", **nomic).refused(3, "nomic", "1536", "768")
    toolbox("migrate", "--dimension", "100", "--endpoint-url", "builtin").refused(3, "wordllama", "100", "256")


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "https://",
        f"mysql://root:{SECRET}@localhost/db",
        f"postgresql://root:{SECRET}@[::1/db",
        f"postgresql://root:{SECRET}@localhost:port/db",
        f"postgresql://root:{SECRET}@x@localhost/db",
        f"hots=localhost password={SECRET}",
        f"password='{SECRET}",
    ],
)
def test_a_database_url_that_is_none(toolbox: Toolbox, url: str) -> None:
    for command in (["status"], ["migrate", "--dimension", "768"], ["search", "x"]):
        outcome = toolbox(*command, DATABASE_URL=url).refused(3, "DATABASE_URL")
        assert SECRET not in outcome.err


@pytest.mark.parametrize("url", ["nonsense", "localhost:1234", "ftp://host/v1", "http://", "http://a b/v1"])
def test_an_endpoint_url_that_is_none(toolbox: Toolbox, untouched: str, url: str) -> None:
    toolbox("embed", "x", EMBEDDING_ENDPOINT_URL=url).refused(3, "EMBEDDING_ENDPOINT_URL", url)
    toolbox("reindex", EMBEDDING_ENDPOINT_URL=url).refused(3, "EMBEDDING_ENDPOINT_URL", url)
    toolbox("migrate", "--endpoint-url", url).refused(2, "--endpoint-url", url)


def test_a_secret_in_an_endpoint_url_is_not_repeated(toolbox: Toolbox, untouched: str) -> None:
    url = f"https://user:{SECRET}@host/v1/embeddings"
    assert SECRET not in toolbox("embed", "x", EMBEDDING_ENDPOINT_URL=url).refused(3, "EMBEDDING_API_KEY").err
    assert SECRET not in toolbox("migrate", "--endpoint-url", url).refused(2, "EMBEDDING_API_KEY").err


@pytest.mark.parametrize("command", [["status"], ["list"], ["migrate", "--dimension", "8"], ["search", "x"]])
def test_a_server_that_is_not_there(toolbox: Toolbox, command: list[str]) -> None:
    outcome = toolbox(*command, DATABASE_URL=f"postgresql://me:{SECRET}@127.0.0.1:1/db").refused(4, "127.0.0.1")
    assert SECRET not in outcome.err


def test_a_database_that_is_not_there(toolbox: Toolbox, empty_database: str) -> None:
    gone = psycopg.conninfo.make_conninfo(empty_database, dbname="no_such_db", password=SECRET)
    outcome = toolbox("status", DATABASE_URL=gone).refused(4, "no_such_db", "does not exist")
    assert SECRET not in outcome.err


@pytest.fixture
def nobody(server: EmbeddedServer, empty_database: str) -> Iterator[str]:
    """A role with a password that owns nothing; its conninfo for the empty database."""
    name = f"nobody_{psycopg.conninfo.conninfo_to_dict(empty_database)['dbname']}"[:60]
    role = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(SECRET))
    grant = sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(role)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(create)
        connection.execute(grant)
    yield psycopg.conninfo.make_conninfo(empty_database, user=name, password=SECRET)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_role_that_may_not_create_the_extension(toolbox: Toolbox, nobody: str, empty_database: str) -> None:
    outcome = toolbox("migrate", "--dimension", "8", "--model", "m", DATABASE_URL=nobody).refused(4, "vector")
    assert SECRET not in outcome.err
    assert value(empty_database, "SELECT to_regclass('tools') IS NULL")


def test_a_wrong_password(server: EmbeddedServer, toolbox: Toolbox, nobody: str) -> None:
    """The embedded server trusts its socket, so for this one role it is told to ask."""
    hba = server.data_dir / "pgdata" / "pg_hba.conf"
    before = hba.read_text()
    user = psycopg.conninfo.conninfo_to_dict(nobody)["user"]
    try:
        hba.write_text(f"local all {user} scram-sha-256\n{before}")
        execute(server.conninfo("postgres"), "SELECT pg_reload_conf()")
        wrong = psycopg.conninfo.make_conninfo(nobody, password=f"not-{SECRET}")
        for command in (["status"], ["migrate", "--dimension", "8"], ["verify", "--json"]):
            outcome = wait_for_password(toolbox, command, wrong)
            assert "password authentication failed" in outcome.err, outcome
            assert outcome.code == 4
            assert outcome.out == ""
            assert outcome.err.count("error") == 1
            assert SECRET not in outcome.err
    finally:
        hba.write_text(before)
        execute(server.conninfo("postgres"), "SELECT pg_reload_conf()")


def wait_for_password(toolbox: Toolbox, command: list[str], wrong: str) -> Outcome:
    """The server reloads its rules when its postmaster gets to it: until then the socket is still trusted."""
    for _ in range(200):
        try:
            psycopg.connect(wrong).close()
        except psycopg.OperationalError:
            break
    return toolbox(*command, DATABASE_URL=wrong)


def test_a_tools_table_that_is_none_of_ours(toolbox: Toolbox, empty: str) -> None:
    execute(empty, "CREATE TABLE tools (id serial PRIMARY KEY, hammer text, price numeric)")
    execute(empty, "INSERT INTO tools (hammer) VALUES ('big')")
    before = catalogue_of(empty)
    for command in (["migrate", "--dimension", "768"], ["list"], ["reindex"], ["search", "x"], ["import", "--sample"]):
        toolbox(*command).refused(5, "no ToolBox registry", "name (missing)")
    status = toolbox("status", "--json").ok().json
    assert "no ToolBox registry" in status["problem"]
    assert toolbox("verify").code == 1
    assert catalogue_of(empty) == before
    assert rows(empty, "SELECT hammer FROM tools") == [("big",)]


class TestEndpoints:
    """What ``embed``, ``reindex`` and ``search`` say of a service that cannot be used."""

    @pytest.fixture(autouse=True)
    def _one_tool(self, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLBOX_RETRY_TIMEOUT", "0.3")
        monkeypatch.setenv("EMBEDDING_MODEL", "test-model")
        execute(
            registry,
            "INSERT INTO tools (name, description, category, tags, input_schema, implementation_type, is_active,"
            " version, created_at, updated_at)"
            " VALUES ('one', 'the only tool', 'c', '[]', '{}', 'external', true, '1', now(), now())",
        )

    def refused(self, toolbox: Toolbox, registry: str, *words: str) -> None:
        toolbox("embed", "hello", EMBEDDING_DIMENSION=str(DIMENSION)).refused(6, *words)
        toolbox("search", "hello").refused(6, *words)
        outcome = toolbox("reindex")
        assert outcome.code == 6, outcome
        assert outcome.err.count("error: ") == outcome.err.count("hint: ") == 1, outcome
        assert "Traceback" not in outcome.err
        for word in words:
            assert word in outcome.err, (word, outcome)
        assert value(registry, "SELECT count(*) FROM tools WHERE embedding IS NOT NULL") == 0
        assert value(registry, "SELECT count(*) FROM embedding_failures") == 0

    def test_html(self, toolbox: Toolbox, registry: str, service: Service) -> None:
        service.behaviour.answer_body = "<!DOCTYPE html><html><body>Welcome to nginx</body></html>"
        service.behaviour.answer_type = "text/html"
        self.refused(toolbox, registry, "HTML")

    def test_401(self, toolbox: Toolbox, registry: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        service.behaviour.api_key, service.behaviour.echo_key = "right", True
        monkeypatch.setenv("EMBEDDING_API_KEY", SECRET)
        self.refused(toolbox, registry, "401", "EMBEDDING_API_KEY")
        for command in (["embed", "x"], ["search", "x"], ["reindex"], ["verify"]):
            outcome = toolbox(*command)
            assert SECRET not in outcome.out + outcome.err

    def test_404(self, toolbox: Toolbox, registry: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", service.url.replace("/v1/embeddings", "/embed"))
        self.refused(toolbox, registry, "404", "/v1/embeddings")

    def test_a_model_that_the_service_does_not_have(self, toolbox: Toolbox, registry: str, service: Service) -> None:
        service.behaviour.model = "another"
        self.refused(toolbox, registry, "404", "does not exist", "EMBEDDING_MODEL")

    def test_another_dimension(self, toolbox: Toolbox, registry: str, service: Service) -> None:
        service.behaviour.answer_dimension = DIMENSION + 1
        self.refused(toolbox, registry, str(DIMENSION), str(DIMENSION + 1))

    def test_refused_connection(self, toolbox: Toolbox, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", UNREACHABLE)
        self.refused(toolbox, registry, UNREACHABLE, "refused")

    def test_verify_says_it_too(self, toolbox: Toolbox, registry: str, service: Service) -> None:
        service.behaviour.answer_dimension = DIMENSION + 1
        checks = {check["name"]: check for check in toolbox("verify", "--json").json["checks"]}
        assert checks["service_dimension"]["status"] == "fail"
        assert checks["coverage"]["remedy"] == "toolbox reindex"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text(" \n\n ")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "gzip").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + bytes(range(256)))
    (tmp_path / "html").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "long").write_bytes(b"a" * 20_000_000)
    (tmp_path / "cut").write_text('{"tools": [{"name": "x", "description": "y"')
    return tmp_path


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("directory", "is a directory"),
        ("missing", "missing"),
        ("empty", "empty"),
        ("blank", "empty"),
        ("binary", "binary"),
        ("gzip", ""),
        ("html", ""),
        ("long", "not JSON"),
        ("directory/inside/of/nothing", "nothing"),
    ],
)
def test_a_file_that_holds_no_tools(toolbox: Toolbox, untouched: str, folder: Path, name: str, word: str) -> None:
    outcome = toolbox("import", str(folder / name)).refused(2, word)
    assert len(outcome.err) < 600


def test_an_import_without_a_file(toolbox: Toolbox, untouched: str, folder: Path) -> None:
    toolbox("import").refused(2, "FILE", "--sample")
    toolbox("import", str(folder / "empty"), "--sample").refused(2, "FILE", "--sample")
    toolbox("import", "--sample", "--category", "c" * 101).refused(2, "--category")
    toolbox("import", "--sample", "--format", "csv").refused(2, "--format", "csv")


def test_a_file_that_ends_too_soon(toolbox: Toolbox, untouched: str, folder: Path) -> None:
    outcome = toolbox("import", str(folder / "cut"))
    assert outcome.code in (1, 2), outcome
    assert "Traceback" not in outcome.err


def test_bad_entries_are_named_by_line_and_the_good_ones_kept(toolbox: Toolbox, registry: str, tmp_path: Path) -> None:
    entries = [
        {"name": "good_1", "description": "first"},
        {"name": "n" * 256, "description": "too long"},
        {"name": "good_1", "description": "again"},
        {"name": "with\0nul", "description": "nul in the name"},
        {"name": "nul_inside", "description": "a\0b"},
        {"name": "", "description": "no name"},
        {"name": "good_2", "description": "n" * 255},
    ]
    file = tmp_path / "tools.jsonl"
    file.write_text("\n".join(json.dumps(entry) for entry in entries))
    outcome = toolbox("import", str(file), "--json")
    assert outcome.code == 1, outcome
    assert outcome.err == ""
    assert (outcome.json["created"], outcome.json["failed"]) == (2, 5)
    failures = {failure["line"]: failure["error"] for failure in outcome.json["failures"]}
    assert sorted(failures) == [2, 3, 4, 5, 6]
    assert "255" in failures[2]
    assert "duplicate of line 1" in failures[3]
    assert "NUL" in failures[4]
    assert "NUL" in failures[5]
    assert rows(registry, "SELECT name FROM tools ORDER BY name") == [("good_1",), ("good_2",)]

    shown = toolbox("import", str(file))
    assert shown.code == 1
    assert "\0" not in shown.out
    assert "line 2" in shown.out


def test_arguments_that_cannot_be(toolbox: Toolbox, untouched: str) -> None:
    toolbox("nosuch").refused(2, "nosuch", "toolbox --help")
    toolbox("search").refused(2, "toolbox search --help")
    toolbox("search", "two", "words").refused(2, "words")
    toolbox("search", "").refused(2, "empty")
    toolbox("search", " \n").refused(2, "empty")
    toolbox("search", "caf\udce9", "--mode", "text").refused(2, "UTF-8")
    toolbox("search", "x", "--mode", "text", "--category", "caf\udce9").refused(2, "UTF-8")
    toolbox("list", "--category", "caf\udce9").refused(2, "UTF-8")
    toolbox("show", "caf\udce9").refused(2, "UTF-8")
    toolbox("search", "x", "--limit", "0").refused(2, "--limit", "0", "at least 1")
    toolbox("search", "x", "--threshold", "2").refused(2, "--threshold", "at most 1")
    toolbox("search", "x", "--mode", "psychic").refused(2, "--mode", "psychic")
    toolbox("reindex", "--concurrency", "none").refused(2, "--concurrency", "none", "integer")
    toolbox("reindex", "--nosuch").refused(2, "--nosuch", "toolbox reindex --help")
    toolbox("rollback", "--to", "7").refused(2, "--to", "7", "001")
    toolbox("db", "nosuch").refused(2, "nosuch", "toolbox db --help")
    toolbox("show", "no\0body").refused(1, "no tool")
    toolbox("show", "9" * 30).refused(1, "no tool")


def test_a_dotenv_file_that_cannot_be_read(toolbox: Toolbox, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"EMBEDDING_MODEL=\xff\xfe\x00")
    toolbox("status").refused(3, ".env")


def test_an_export_that_cannot_be_written(toolbox: Toolbox, untouched: str, tmp_path: Path) -> None:
    toolbox("export", str(tmp_path / "no" / "folder.jsonl")).refused(2, "cannot be written")
    toolbox("export", str(tmp_path)).refused(2, "directory")
    assert list(tmp_path.iterdir()) == []
