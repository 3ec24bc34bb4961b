"""An operator's session on a registry as it stands in the field: ``make demo``.

The commands are run as printed, and what they print is shown as it is. Every claim is checked; the exit code is 1
with a line that says which one does not hold. Nothing is left behind: the data folder is a temporary one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "registry_alembic_001.sql"
OLD_DIMENSION, NEW_DIMENSION = 1024, 256

COUNT = "SELECT count(*) AS tools, count(embedding) AS embedded, max(vector_dims(embedding)) AS dimension FROM tools"
CHECKSUM = (
    "SELECT count(embedding) AS vectors, md5(string_agg(id || vector_send(embedding)::text, chr(10) ORDER BY id))"
    " FROM tools"
)
NEW_TOOL = """\
-- What the ToolBox server sends when a tool is registered; the vector is the model's own.
INSERT INTO tools (name, description, category, tags, input_schema, output_schema, implementation_type,
                   is_active, version, created_at, updated_at, embedding)
VALUES ('{name}', '{description}', 'text', '[]', '{{}}', '{{}}', 'python_function',
        true, '1.0.0', now(), now(), '{vector}');
"""


class ClaimError(Exception):
    """Something is not as the demo says."""


class Session:
    """Commands in a folder of their own, with the embedded database and the built-in model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name != "DATABASE_URL" and not name.startswith(("EMBEDDING_", "TOOLBOX_", "PG"))
        }
        scripts = Path(sys.executable).parent
        self.environment = inherited | {
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TOOLBOX_DATA_DIR": str(folder / "data"),
            "EMBEDDING_ENDPOINT_URL": "builtin",
            "PSQLRC": os.devnull,
        }

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Print ``$ toolbox …`` and what it prints; returns that. Any other exit code is an error."""
        say(bold(f"$ {shlex.join(['toolbox', *arguments])}"))
        done = subprocess.run(
            ["toolbox", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        shown = "\n".join(line.rstrip() for line in done.stdout.splitlines())
        say(f"{shown.rstrip()}\n" if shown else "")
        claim(done.returncode == expect, f"toolbox {arguments[0]} ends with exit code {expect}, not {done.returncode}")
        return shown

    def close(self) -> None:
        """Stop the server, whatever has happened; a second Ctrl-C must not leave it running."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        subprocess.run(
            ["toolbox", "db", "stop"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        shutil.rmtree(self.folder)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    began = time.monotonic()
    # The server of a root user runs under another account, which has to pass here.
    folder = Path(tempfile.mkdtemp(prefix="toolbox-demo-"))
    folder.chmod(0o711)
    session = Session(folder)
    try:
        demonstrate(session)
    except ClaimError as exc:
        say()
        sys.stderr.write(f"demo: NOT as claimed: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ndemo: interrupted; the server is stopped and its folder removed\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        session.close()
    if folder.exists():
        sys.stderr.write(f"demo: NOT as claimed: {folder} is still there\n")
        return 1
    say(f"demo: all as claimed, in {time.monotonic() - began:.0f} s; the server is stopped, its data removed.")
    return 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def demonstrate(session: Session) -> None:
    shutil.copy(FIXTURE, session.folder / "registry.sql")
    word_count(session.folder / "new_tool.sql")

    chapter("A registry as the ToolBox server's Alembic makes it: 1024 dimensions, two tools without an embedding.")
    session.run("db", "start")
    psql(session, "-q", "-v", "ON_ERROR_STOP=1", "-f", "registry.sql")
    counted = psql(session, "-c", COUNT)
    claim(re.search(r"16 \|\s+14 \|\s+1024", counted), "16 tools are loaded, 14 with 1024 dimensions")
    before = psql(session, "-c", CHECKSUM)
    claim(re.search(r"14 \| [0-9a-f]{32}", before), "the checksum covers 14 vectors")
    session.run("status")

    chapter("The model makes 256 dimensions, so PostgreSQL refuses every tool that the server registers.")
    said = session.run("embed", "calculate numbers")
    claim(re.search(rf"dimension +{NEW_DIMENSION}$", said, re.MULTILINE), "the model makes 256 dimensions")
    # 3 is psql's exit code for an error in a script.
    said = psql(session, "-v", "ON_ERROR_STOP=1", "-f", "new_tool.sql", expect=3)
    claim(f"ERROR:  expected {OLD_DIMENSION} dimensions, not {NEW_DIMENSION}" in said, "the insert is refused")

    chapter("Adopt the registry and give it the model's dimension. The former vectors are kept.")
    session.run("migrate", "--dimension", str(NEW_DIMENSION))
    said = psql(session, "-v", "ON_ERROR_STOP=1", "-f", "new_tool.sql")
    claim("INSERT 0 1" in said, "the same insert is accepted now")
    said = session.run("status")
    claim(re.search(r"^current +wordllama,? +256\b", said, re.MULTILINE), "the current generation has 256 dimensions")

    chapter("Embed every active tool, and check that what is stored is right.")
    said = session.run("reindex", "--concurrency", "10")
    claim(re.search(r"^16 embedded, 0 already fresh, 0 failed", said, re.MULTILINE), "16 active tools are embedded")
    said = session.run("verify")
    claim("0 failed" in said and "fail " not in said, "verify finds nothing wrong")
    said = session.run("search", "calculate numbers")
    claim(re.search(r"^1 +calculator ", said, re.MULTILINE), "the calculator comes first")

    chapter("Go back: the former vectors are there again, bit for bit.")
    session.run("rollback")
    psql(session, "-c", COUNT)
    after = psql(session, "-c", CHECKSUM)
    claim(after == before, "the checksum of the vectors is the one from before")
    said = session.run("db", "stop")
    claim("stopped" in said, "the server is stopped")


def psql(session: Session, *arguments: str, expect: int = 0) -> str:
    return session.run("db", "shell", *arguments, expect=expect)


def word_count(path: Path) -> None:
    """Write the statement that registers a tool, with its real vector."""
    from toolbox_cli.embedding import build_embedder

    name, description = "word_count", "Count the words, lines and characters of a text"
    embedder = build_embedder(
        model="wordllama",
        dimension=None,
        document_prefix="",
        query_prefix="",
        endpoint_url="builtin",
        api_key=None,
        request_timeout=60,
        retry_timeout=0,
    )
    vector = asyncio.run(embedder.embed_documents([f"word count: {description}"]))[0]
    numbers = "[" + ",".join(f"{number:.7g}" for number in vector) + "]"
    path.write_text(NEW_TOOL.format(name=name, description=description, vector=numbers), encoding="utf-8")


def claim(holds: object, what: str) -> None:
    if not holds:
        raise ClaimError(what)


def chapter(title: str) -> None:
    say(bold(f"# {title}"))
    say()


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
