"""verify and status on real registries: clean, and with one thing after another broken by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from support.registries import (
    execute,
    literal,
    migrate,
    opened,
    prune,
    random_vectors,
    rows,
    server_insert,
    target,
    value,
)
from support.service import Behaviour, EmbeddingService, vectors_of

from toolbox_cli.core.checks.verification import Verification
from toolbox_cli.core.status import Status
from toolbox_cli.core.status import status as read_status
from toolbox_cli.core.verify import VerifyOptions
from toolbox_cli.core.verify import verify as run_verify
from toolbox_cli.db.inspection import PostgresInspector
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.domain.errors import ToolboxError
from toolbox_cli.domain.models import Check, CheckStatus, Generation, Target
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.settings import Settings
from toolbox_cli.embedding.http import HttpEmbedder

MODEL, DIMENSION, TOOLS = "test-model", 8, 6
ALL_CHECKS = [
    "server", "pgvector", "migrations", "column", "settings", "server_settings", "leftovers", "index", "recall",
    "planner", "index_size", "text_index", "coverage", "fingerprints", "vectors", "lengths", "duplicates", "outliers",
    "insert", "service", "service_dimension", "drift", "search",
]  # fmt: skip


@dataclass
class Broken:
    """A registry with its service; ``verify`` runs as the command does."""

    conninfo: str
    service: EmbeddingService
    target: Target

    async def verify(self, *, offline: bool = False, **settings: Any) -> Verification:
        def build(generation: Generation) -> HttpEmbedder:
            return HttpEmbedder(
                endpoint_url=generation.endpoint_url or self.service.url,
                model=generation.model or "",
                dimension=generation.dimension,
                request_timeout=2.0,
                retry_timeout=0.0,
            )

        services = SimpleNamespace(embedder=build, probe=None)
        async with opened(self.conninfo) as registry:
            inspector, store = PostgresInspector(registry), PostgresSearchStore(registry.connection)
            options = VerifyOptions(offline=offline)
            return await run_verify(inspector, store, Settings(**settings), services, options, SilentProgress())

    async def check(self, name: str, **options: Any) -> Check:
        found = {check.name: check for check in (await self.verify(**options)).checks}
        return found[name]

    async def status(self) -> Status:
        async with opened(self.conninfo) as registry:
            return await read_status(PostgresInspector(registry), Settings())

    def execute(self, statement: str, parameters: list[Any] | None = None) -> None:
        execute(self.conninfo, statement, parameters)

    def embed(self, where: str = "true") -> None:
        """What a reindex leaves: the service's vector of the tool's text, and the fingerprint of both."""
        texts = rows(
            self.conninfo,
            f"SELECT id, toolbox_tool_text(name::text, description, input_schema) FROM tools WHERE {where}",
        )
        vectors = vectors_of(MODEL, [text for _, text in texts], DIMENSION)
        for (tool_id, text), vector in zip(texts, vectors, strict=True):
            self.execute(
                "UPDATE tools SET embedding = %s,"
                " embedding_fingerprint = toolbox_fingerprint(%s, %s, '', 1, %s) WHERE id = %s",
                [literal(vector), MODEL, DIMENSION, text, tool_id],
            )


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with EmbeddingService(Behaviour(dimension=DIMENSION)) as running:
        yield running


@pytest.fixture
async def registry(registry_database: str, service: EmbeddingService) -> Broken:
    """Six tools, all embedded; nothing broken yet."""
    wanted = target(DIMENSION, MODEL, endpoint_url=service.url)
    await migrate(registry_database, wanted)
    for number in range(TOOLS):
        server_insert(registry_database, f"tool_{number}")
    made = Broken(registry_database, service, wanted)
    made.embed()
    return made


def problems(found: Verification) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in found.checks if check.status is not CheckStatus.PASS}


async def test_clean_registry_passes(registry: Broken) -> None:
    found = await registry.verify()
    assert [check.name for check in found.checks] == ALL_CHECKS
    assert problems(found) == {}
    assert found.ok
    assert all(check.remedy is None for check in found.checks)
    assert value(registry.conninfo, "SELECT count(*) FROM tools") == TOOLS, "the tried insert was rolled back"
    assert (await registry.status()).next_command is None


async def test_offline_asks_nothing_of_the_service(registry: Broken) -> None:
    requests = registry.service.stats.requests
    found = await registry.verify(offline=True)
    assert registry.service.stats.requests == requests
    assert problems(found) == dict.fromkeys(["service", "service_dimension", "drift", "search"], CheckStatus.SKIP)
    assert found.ok


#: What is done to the registry, and the checks that must then fail, with the command that the remedy names.
BREAKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "pgvector too old": (
        "UPDATE pg_extension SET extversion = '0.6.2' WHERE extname = 'vector'",
        {"pgvector": "ALTER EXTENSION vector UPDATE"},
    ),
    "mark of a migration lost": (
        "DELETE FROM _yoyo_migration WHERE migration_id LIKE '003%'",
        {"migrations": "toolbox migrate"},
    ),
    "record of the generation lost": ("DELETE FROM embedding_generations", {"migrations": "toolbox migrate"}),
    "column altered": (
        "DROP INDEX ix_tools_embedding; ALTER TABLE tools ALTER embedding TYPE vector(9) USING NULL;"
        "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops)",
        {"column": "toolbox migrate --dimension 8", "coverage": "toolbox reindex", "insert": "toolbox migrate"},
    ),
    "index lost": ("DROP INDEX ix_tools_embedding", {"index": "toolbox reindex"}),
    "index invalid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_embedding'::regclass",
        {"index": "toolbox reindex"},
    ),
    "index of another operator class": (
        "DROP INDEX ix_tools_embedding; CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_l2_ops)",
        {"index": "toolbox reindex"},
    ),
    "index of another method": (
        "DROP INDEX ix_tools_embedding;"
        "CREATE INDEX ix_tools_embedding ON tools USING ivfflat (embedding vector_cosine_ops) WITH (lists = 1)",
        {"index": "toolbox reindex"},
    ),
    "vector missing": (
        "UPDATE tools SET embedding = NULL, embedding_fingerprint = NULL WHERE name = 'tool_1'",
        {"coverage": "toolbox reindex"},
    ),
    "stamp without a vector": (
        "UPDATE tools SET embedding = NULL WHERE name = 'tool_1'",
        {"coverage": "toolbox reindex"},
    ),
    "tool edited": ("UPDATE tools SET description = 'New' WHERE name = 'tool_1'", {"fingerprints": "toolbox reindex"}),
    "vector without a fingerprint": (
        "UPDATE tools SET embedding_fingerprint = NULL WHERE name = 'tool_1'",
        {"fingerprints": "toolbox reindex"},
    ),
    "vector of length zero": (
        "UPDATE tools SET embedding = '[0,0,0,0,0,0,0,0]' WHERE name = 'tool_1'",
        {"vectors": "toolbox reindex --all", "drift": "toolbox reindex --all"},
    ),
    "insert refused": (
        "ALTER TABLE tools ADD CONSTRAINT refused CHECK (description NOT LIKE 'Written by toolbox%')",
        {"insert": "toolbox migrate"},
    ),
    # psycopg sorts this SQLSTATE (54000) under OperationalError, as it does a lost connection.
    "insert over a limit of the server": (
        "CREATE FUNCTION limited() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'index row is too long' USING ERRCODE = '54000'; END $$;"
        "CREATE TRIGGER limited BEFORE INSERT ON tools FOR EACH ROW EXECUTE FUNCTION limited()",
        {"insert": "toolbox migrate"},
    ),
    "vectors of another model": (
        f"UPDATE tools SET embedding = '{literal(random_vectors(1, DIMENSION, seed=7)[0])}'",
        {"drift": "toolbox reindex --all", "search": "toolbox reindex --all"},
    ),
}


@pytest.mark.parametrize(("broken", "expected"), BREAKAGES.values(), ids=BREAKAGES)
async def test_each_check_fails_when_its_thing_is_broken(
    registry: Broken, broken: str, expected: dict[str, str]
) -> None:
    registry.execute(broken)
    found = await registry.verify()
    failed = {check.name: check for check in found.checks if check.status is CheckStatus.FAIL}
    assert set(failed) == set(expected)
    assert not found.ok
    for name, remedy in expected.items():
        assert remedy in (failed[name].remedy or "")
        assert failed[name].detail


@pytest.mark.parametrize(
    "name",
    ["mark of a migration lost", "record of the generation lost", "index lost", "index invalid",
     "index of another operator class", "index of another method", "column altered"],
)  # fmt: skip
async def test_migrate_mends_what_names_it(registry: Broken, name: str) -> None:
    registry.execute(BREAKAGES[name][0])
    assert not (await registry.verify()).ok
    await migrate(registry.conninfo, registry.target)
    registry.embed("embedding IS NULL")
    assert (await registry.verify()).ok


async def test_refused_tools_fail_the_coverage(registry: Broken) -> None:
    registry.execute("UPDATE tools SET embedding = NULL, description = 'Refused' WHERE name = 'tool_1'")
    registry.execute(
        "INSERT INTO embedding_failures (tool_id, generation_id, fingerprint, error)"
        " SELECT t.id, g.id, toolbox_fingerprint(%s, %s, '', 1,"
        " toolbox_tool_text(t.name::text, t.description, t.input_schema)), 'too long'"
        " FROM tools t, embedding_generations g WHERE t.name = 'tool_1' AND g.role = 'current'",
        [MODEL, DIMENSION],
    )
    found = await registry.check("coverage")
    assert found.status is CheckStatus.FAIL
    assert "1 were refused by the service" in found.detail
    # Edited, it is no failure any more but a tool without a vector.
    registry.execute("UPDATE tools SET description = 'Better' WHERE name = 'tool_1'")
    assert "refused" not in (await registry.check("coverage")).detail


async def test_inactive_tools_do_not_count(registry: Broken) -> None:
    registry.execute("UPDATE tools SET embedding = NULL, is_active = false WHERE name = 'tool_1'")
    assert (await registry.verify()).ok


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        ({"embedding_dimension": 1536}, "EMBEDDING_DIMENSION is 1536, the registry has 8", "EMBEDDING_DIMENSION=8"),
        (
            {"embedding_model": "bge-m3"},
            "EMBEDDING_MODEL is bge-m3, the registry was made with test-model",
            "EMBEDDING_MODEL=test-model",
        ),
    ],
)
async def test_settings_that_the_server_would_fail_with(
    registry: Broken, settings: dict[str, Any], said: str, remedy: str
) -> None:
    found = await registry.check("settings", **settings)
    assert found.status is CheckStatus.FAIL
    assert said in found.detail
    assert remedy in (found.remedy or "")
    same = await registry.check("settings", embedding_dimension=8, embedding_model=MODEL)
    assert same.status is CheckStatus.PASS


async def test_service_down(registry: Broken) -> None:
    registry.service.stop()
    found = await registry.verify()
    assert problems(found) == {
        "service": CheckStatus.FAIL,
        "service_dimension": CheckStatus.SKIP,
        "drift": CheckStatus.SKIP,
        "search": CheckStatus.SKIP,
    }
    assert next(check for check in found.checks if check.name == "service").remedy


async def test_service_that_answers_garbage(registry: Broken) -> None:
    registry.service.behaviour.answer_body = "<html><body>nginx</body></html>"
    registry.service.behaviour.answer_type = "text/html"
    found = await registry.check("service")
    assert found.status is CheckStatus.FAIL
    assert found.remedy


async def test_service_of_another_dimension(registry: Broken) -> None:
    registry.service.behaviour.answer_dimension = 12
    found = {check.name: check for check in (await registry.verify()).checks}
    assert found["service"].status is CheckStatus.PASS
    assert found["service_dimension"].status is CheckStatus.FAIL
    assert "12 dimensions, expected 8" in found["service_dimension"].detail
    assert "toolbox migrate --dimension 12" in (found["service_dimension"].remedy or "")
    assert found["search"].status is CheckStatus.SKIP


@pytest.mark.parametrize("start", ["empty_database", "alembic_database"])
async def test_what_is_no_registry_of_ours_yet(
    start: str, request: pytest.FixtureRequest, service: EmbeddingService
) -> None:
    registry = Broken(request.getfixturevalue(start), service, target())
    found = (await registry.verify()).checks
    assert found[-1].name == "migrations"
    assert found[-1].status is CheckStatus.FAIL
    assert found[-1].remedy == "toolbox migrate"
    status = await registry.status()
    assert status.next_command == "toolbox migrate"
    assert status.migrations.applied == []
    assert len(status.migrations.pending) == 3


async def test_warnings_are_no_failures(registry: Broken) -> None:
    registry.execute("UPDATE pg_extension SET extversion = '0.8.1' WHERE extname = 'vector'")
    registry.execute("ALTER TABLE tools ADD embedding_next vector(3)")
    await migrate(registry.conninfo, registry.target.model_copy(update={"index_method": "none"}))
    found = await registry.verify()
    assert problems(found) == dict.fromkeys(["pgvector", "orphans", "index"], CheckStatus.WARN)
    assert found.ok
    await prune(registry.conninfo)
    assert "orphans" not in problems(await registry.verify())


async def test_empty_registry(registry: Broken) -> None:
    registry.execute("DELETE FROM tools")
    found = await registry.verify()
    without = ["recall", "planner", "fingerprints", "vectors", "lengths", "duplicates", "outliers", "drift", "search"]
    assert problems(found) == dict.fromkeys(without, CheckStatus.SKIP) | {"coverage": CheckStatus.WARN}
    assert found.ok
    assert (await registry.status()).next_command is None


async def test_vectors_of_unknown_origin(registry: Broken) -> None:
    registry.execute("UPDATE embedding_generations SET model = NULL, canonical_model = NULL")
    found = await registry.verify()
    assert problems(found) == {
        "fingerprints": CheckStatus.FAIL,
        "service": CheckStatus.SKIP,
        "service_dimension": CheckStatus.SKIP,
        "drift": CheckStatus.SKIP,
        "search": CheckStatus.SKIP,
    }


async def test_lost_session_is_an_error_and_no_verdict(registry: Broken) -> None:
    async with opened(registry.conninfo) as opened_registry:
        generation = await opened_registry.generation()
        assert generation is not None
        execute(registry.conninfo, "SELECT pg_terminate_backend(%s)", [opened_registry.connection.info.backend_pid])
        with pytest.raises(ToolboxError):
            await PostgresInspector(opened_registry).try_insert(generation)


async def test_status_counts_every_generation(registry: Broken) -> None:
    await migrate(registry.conninfo, target(16, MODEL))
    found = await registry.status()
    assert found.database.embedded
    current, previous = found.generations.current, found.generations.previous
    assert current is not None
    assert previous is not None
    assert (current.dimension, current.census.missing, current.census.fresh) == (16, TOOLS, 0)
    assert (previous.dimension, previous.census.fresh, previous.column) == (8, TOOLS, "embedding_previous")
    assert (previous.index, found.generations.building) == (None, None)
    assert current.index is not None
    assert (current.index.name, current.index.method, current.index.valid) == ("ix_tools_embedding", "hnsw", True)
    assert found.next_command == "toolbox reindex"
