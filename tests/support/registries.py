"""Registries for tests: made, changed and looked at the way the commands do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from toolbox_cli.core.generation import Consent, change
from toolbox_cli.db.changes import RegistryChange
from toolbox_cli.db.connection import connect
from toolbox_cli.db.registry import Registry
from toolbox_cli.domain.changes import Outline
from toolbox_cli.domain.models import EmbeddingSpace, IndexMethod, Target
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.settings import load_settings

ALEMBIC_SQL = Path(__file__).parents[1] / "fixtures" / "registry_alembic_001.sql"

YES = Consent(yes=True)
FORCE = Consent(yes=True, force=True)

MIGRATIONS = ["001_initial_schema", "002_fix_embedding_dimension", "003_embedding_generations"]

#: DESIGN 4.1: what the ToolBox server sends when a tool is registered.
SERVER_INSERT = """
INSERT INTO tools (name, description, category, tags, input_schema, output_schema, implementation_type,
                   is_active, version, created_at, updated_at, embedding)
VALUES (%s, 'Test', 'test', '[]', '{}', '{}', 'python_function', true, '1.0.0', now(), now(), %s::vector)
"""


def target(
    dimension: int = 8,
    model: str = "test-model",
    *,
    index_method: IndexMethod | None = None,
    endpoint_url: str = "http://127.0.0.1:9/v1/embeddings",
) -> Target:
    """A target without a service behind it; the model is none of the catalogue's unless named."""
    space = EmbeddingSpace(model=model, dimension=dimension)
    return Target(space=space, endpoint_url=endpoint_url, index_method=index_method)


@asynccontextmanager
async def opened(conninfo: str, *, wait_timeout: float = 10.0, lock_timeout_ms: int = 200) -> AsyncIterator[Registry]:
    """A registry on a session of its own, less patient than the settings are."""
    connection = await connect(conninfo)
    try:
        yield Registry(conninfo, connection, lock_timeout_ms=lock_timeout_ms, wait_timeout=wait_timeout, embedded=True)
    finally:
        await connection.close()


async def migrate_up_to(conninfo: str, last: int, wanted: Target) -> None:
    """Apply the first ``last`` migrations that are pending, as ``migrate`` does until it is killed."""
    async with opened(conninfo) as registry:
        change = await registry.plan_migrate(wanted)
        change._planned = replace(change._planned, steps=change._planned.steps[:last], index=None)
        await change.execute(SilentProgress())


Planner = Callable[[Registry], Awaitable[RegistryChange]]


async def carry_out(
    conninfo: str, planner: Planner, *, consent: Consent = YES, dry_run: bool = False, wait_timeout: float = 10.0
) -> Outline:
    async with opened(conninfo, wait_timeout=wait_timeout) as registry:
        return await change(
            registry,
            lambda: planner(registry),
            consent=consent,
            dry_run=dry_run,
            progress=SilentProgress(),
            settings=load_settings(),
        )


async def migrate(conninfo: str, wanted: Target | None = None, **options: Any) -> Outline:
    """``toolbox migrate``; ``options`` as ``carry_out``."""
    wanted = wanted or target()
    return await carry_out(conninfo, lambda registry: registry.plan_migrate(wanted), **options)


async def migrate_online(conninfo: str, wanted: Target, **options: Any) -> Outline:
    return await carry_out(conninfo, lambda registry: registry.plan_migrate(wanted, online=True), **options)


async def rollback(conninfo: str, to: str | None = None, **options: Any) -> Outline:
    return await carry_out(conninfo, lambda registry: registry.plan_rollback(to), **options)


async def prune(conninfo: str, **options: Any) -> Outline:
    return await carry_out(conninfo, lambda registry: registry.plan_prune(), **options)


def migrate_blocking(conninfo: str, wanted: Target) -> Outline:
    """For fixtures: they outlive a test's event loop, and may be asked for while one runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(migrate(conninfo, wanted))).result()


def load_alembic(conninfo: str) -> None:
    execute(conninfo, ALEMBIC_SQL.read_text(encoding="utf-8"))


def rows(conninfo: str, statement: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(statement, parameters).fetchall()


def value(conninfo: str, statement: str, parameters: Sequence[Any] | None = None) -> Any:
    """The first column of the first row."""
    return rows(conninfo, statement, parameters)[0][0]


def execute(conninfo: str, statement: str, parameters: Sequence[Any] | None = None) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement, parameters)


def applied(conninfo: str) -> list[str]:
    """The migrations that yoyo has marked."""
    return [name for (name,) in rows(conninfo, "SELECT migration_id FROM _yoyo_migration ORDER BY 1")]


def column_type(conninfo: str, column: str = "embedding") -> str | None:
    """E.g. ``vector(768)``; None when the table has no such column."""
    found = rows(
        conninfo,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'tools'::regclass AND attname = %s AND NOT attisdropped",
        [column],
    )
    return found[0][0] if found else None


def dimension_of(conninfo: str) -> int:
    found = column_type(conninfo)
    assert found is not None
    return int(found.removeprefix("vector(").removesuffix(")"))


def vectors(conninfo: str, column: str = "embedding") -> dict[str, bytes]:
    """Every stored vector, bit for bit, by the tool's name."""
    found = rows(conninfo, f'SELECT name, vector_send("{column}") FROM tools WHERE "{column}" IS NOT NULL')
    return {name: bytes(sent) for name, sent in found}


def roles(conninfo: str) -> dict[str, tuple[str | None, int]]:
    """Model and dimension of the live generations."""
    found = rows(conninfo, "SELECT role, model, dimension FROM embedding_generations WHERE role <> 'retired'")
    return {role: (model, dimension) for role, model, dimension in found}


def indexes(conninfo: str) -> dict[str, str]:
    """The vector indexes of the table and their definitions; invalid ones have a ``!`` before."""
    found = rows(
        conninfo,
        "SELECT c.relname, CASE WHEN i.indisvalid THEN '' ELSE '!' END || pg_get_indexdef(c.oid) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
        " WHERE i.indrelid = 'tools'::regclass AND a.amname IN ('hnsw', 'ivfflat')",
    )
    return {name: definition.replace("public.", "") for name, definition in found}


def random_vectors(count: int, dimension: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of length 1, so that cosine and dot product agree."""
    made = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def literal(vector: Sequence[float]) -> str:
    """pgvector's text form."""
    return "[" + ",".join(f"{number:.7g}" for number in vector) + "]"


def server_insert(conninfo: str, name: str, dimension: int | None = None) -> None:
    """Register a tool as the ToolBox server does, with a vector of the dimension that the column has now."""
    vector = random_vectors(1, dimension or dimension_of(conninfo), seed=sum(name.encode()))[0]
    execute(conninfo, SERVER_INSERT, [name, literal(vector)])


def fill(conninfo: str, count: int, *, seed: int = 0, prefix: str = "tool") -> None:
    """Register ``count`` tools with random vectors, as the server does, on one session."""
    made = random_vectors(count, dimension_of(conninfo), seed)
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.executemany(SERVER_INSERT, [(f"{prefix}_{n}", literal(vector)) for n, vector in enumerate(made)])


_SCHEMA_QUERIES = {
    "columns": """
        SELECT c.relname || '.' || a.attname,
               concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                         'default ' || pg_get_expr(d.adbin, d.adrelid),
                         CASE a.attidentity WHEN 'a' THEN 'identity' END)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped""",
    "tables": """
        SELECT c.relname, concat_ws(' ', array_to_string(c.reloptions, ','), obj_description(c.oid, 'pg_class'))
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm')""",
    "indexes": """
        SELECT c.relname, CASE WHEN i.indisvalid THEN '' ELSE '!' END || pg_get_indexdef(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n'""",
    "functions": """
        SELECT p.oid::regprocedure::text, concat_ws(' ', l.lanname, p.provolatile, p.proparallel, p.prosrc)
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = 'public'::regnamespace AND p.oid NOT IN (
            SELECT objid FROM pg_depend WHERE classid = 'pg_proc'::regclass AND deptype = 'e')""",
}


def schema_of(conninfo: str) -> dict[str, dict[str, str]]:
    """The schema by kind and name, without yoyo's own tables."""
    found: dict[str, dict[str, str]] = {}
    for kind, statement in _SCHEMA_QUERIES.items():
        pairs = dict(rows(conninfo, statement))
        found[kind] = {name: text for name, text in pairs.items() if not name.startswith(("_yoyo", "yoyo"))}
    return found


def catalogue_of(conninfo: str) -> list[tuple[Any, ...]]:
    """All of PostgreSQL's catalogue that a command could write to, and the tools themselves."""
    found = rows(conninfo, "SELECT 'class', oid::text, relname::text, relfilenode::text FROM pg_class ORDER BY 2")
    found += rows(
        conninfo,
        "SELECT 'attribute', attrelid::text, attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " ORDER BY 2, 3",
    )
    found += rows(conninfo, "SELECT 'proc', oid::text, proname::text, md5(prosrc) FROM pg_proc ORDER BY 2")
    found += rows(conninfo, "SELECT 'extension', oid::text, extname::text, extversion FROM pg_extension ORDER BY 2")
    if value(conninfo, "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('tools') AND relkind = 'r')"):
        found += rows(conninfo, "SELECT 'tool', id::text, ctid::text, xmin::text FROM tools ORDER BY id")
    return found
