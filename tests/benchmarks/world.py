"""What the benchmarks run on: a database with many tools, and an embedding service in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
from psycopg import sql

from toolbox_cli.db.embedded import EmbeddedServer

MODEL = "bench-model"
TOOLBOX = [sys.executable, "-m", "toolbox_cli"]
SERVICE = Path(__file__).parents[1] / "support" / "service.py"

FILL = """
INSERT INTO tools (name, description, category, tags, input_schema, implementation_type)
SELECT (ARRAY['get','list','create','update','delete','send'])[1 + g %% 6] || '_'
       || (ARRAY['user','invoice','weather','calendar','image','repository','ticket'])[1 + g %% 7] || '_' || g,
       'Tool number ' || g || ' of a large registry. '
       || repeat('It looks things up and returns what it has found. ', 2),
       (ARRAY['data','web','system','text','media'])[1 + g %% 5], '["bench"]',
       '{"type":"object","properties":{"identifier":{"type":"string"},"maxResults":{"type":"integer"},'
       '"start_date":{"type":"string"}},"required":["identifier"]}', 'external'
FROM generate_series(1, %(count)s) AS g
"""

TEXTS = "SELECT id, toolbox_tool_text(name::text, description::text, input_schema) FROM tools ORDER BY id"


@contextlib.contextmanager
def database_server(**settings: str) -> Iterator[EmbeddedServer]:
    """An embedded server with the settings that users get, and these, in a folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="toolbox-bench-"))
    folder.chmod(0o711)
    server = EmbeddedServer(folder / "data", {"max_connections": "100"} | settings)
    try:
        with server.use():
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def service(*options: str) -> Iterator[str]:
    """The URL of an embedding service in its own process."""
    command = [sys.executable, str(SERVICE), "--port", "0", "--no-record", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/embeddings"
    finally:
        process.terminate()
        process.wait(10)


def stats(url: str) -> dict[str, int]:
    """The counters of a service."""
    found: dict[str, int] = httpx.get(url.replace("/v1/embeddings", "/stats"), timeout=10).json()
    return found


def environment(server: EmbeddedServer, database: str, url: str, model: str = MODEL) -> dict[str, str]:
    """The variables that make the command line use this database and this service."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EMBEDDING_", "TOOLBOX_", "PG"))}
    return kept | {
        "DATABASE_URL": server.conninfo(database),
        "EMBEDDING_ENDPOINT_URL": url,
        "EMBEDDING_MODEL": model,
        "TOOLBOX_DATA_DIR": str(server.data_dir),
    }


def toolbox(arguments: list[str], env: dict[str, str]) -> dict[str, object]:
    """Run the program; returns its JSON document."""
    done = subprocess.run([*TOOLBOX, *arguments, "--json"], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"toolbox {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    document: dict[str, object] = json.loads(done.stdout)
    return document


def administer(server: EmbeddedServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(statement)


def make_template(
    server: EmbeddedServer, name: str, *, tools: int, dimension: int, url: str, index: str, model: str = MODEL
) -> None:
    """A database with so many tools and no embedding, to be cloned."""
    administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    env = environment(server, name, url, model)
    toolbox(["migrate", "--dimension", str(dimension), "--index", index], env)
    with psycopg.connect(server.conninfo(name), autocommit=True) as connection:
        connection.execute(FILL, {"count": tools})
        connection.execute("VACUUM ANALYZE tools")


@contextlib.contextmanager
def clone(server: EmbeddedServer, template: str) -> Iterator[str]:
    """A fresh copy of a template, dropped at the end."""
    name = f"{template}_run"
    administer(server, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield name
    finally:
        administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def drop(server: EmbeddedServer, name: str) -> None:
    administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def texts(server: EmbeddedServer, database: str) -> list[str]:
    """What a reindex of this database sends, in its order."""
    with psycopg.connect(server.conninfo(database)) as connection:
        return [row[1] for row in connection.execute(TEXTS)]


def census(env: dict[str, str]) -> dict[str, int]:
    """The census of the current generation, as ``toolbox status`` tells it."""
    status = toolbox(["status"], env)
    generations = status["generations"]
    assert isinstance(generations, dict)
    found: dict[str, int] = generations["current"]["census"]
    return found
