"""Run the program and kill it with SIGKILL at a chosen statement, many times over.

A *zygote* (this file as a program) imports the program once and forks for every run: a run then takes a fraction of
what a new process takes. Statements are counted where psycopg sends them, so no part of the program knows of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where in a statement to kill: before it is sent, or as soon as it was sent, while the server is at it.
MOMENTS = ("before", "during")


@dataclass(frozen=True)
class KilledRun:
    """How a run ended: its exit code, negative for a signal, and how many statements it had begun."""

    code: int
    statements: int
    out: str
    err: str


class Zygote:
    """Runs commands, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, kill_at: int | None = None, moment: str = "before") -> KilledRun:
        """Run in the present environment; ``kill_at`` counts statements from 1."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "arguments": arguments,
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "kill_at": kill_at,
            "moment": moment,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return KilledRun(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    try:
        yield made
    finally:
        made.close()


def _count_and_kill(counter: int, kill_at: int | None, moment: str) -> None:
    """Patch psycopg: the number of statements goes to the file descriptor ``counter`` at each one."""
    import asyncio
    import time

    import psycopg

    begun = 0

    def count() -> bool:
        nonlocal begun
        begun += 1
        os.pwrite(counter, f"{begun:8d}".encode(), 0)
        return begun == kill_at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    sync_execute, async_execute = psycopg.Cursor.execute, psycopg.AsyncCursor.execute

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        if count():
            if moment == "during":
                import threading

                threading.Thread(target=lambda: (time.sleep(0.002), die())).start()
                return sync_execute(self, *arguments, **options)
            die()
        return sync_execute(self, *arguments, **options)

    async def execute_async(self: Any, *arguments: Any, **options: Any) -> Any:
        if count():
            if moment == "during":
                asyncio.get_running_loop().call_later(0.002, die)
                result = await async_execute(self, *arguments, **options)
                die()
                return result
            die()
        return await async_execute(self, *arguments, **options)

    psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    psycopg.AsyncCursor.execute = execute_async  # type: ignore[method-assign]


def _run(request: dict[str, Any]) -> KilledRun:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as counter:
        os.pwrite(counter.fileno(), f"{0:8d}".encode(), 0)
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _count_and_kill(counter.fileno(), request["kill_at"], request["moment"])
            code = 70
            try:
                from toolbox_cli.cli import main

                main(list(request["arguments"]))
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err, counter):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
        return KilledRun(os.waitstatus_to_exitcode(status), int(texts[2]), texts[0], texts[1])


def main() -> None:
    """Answer a line of JSON for a line of JSON, until the input ends."""
    import httpx
    import numpy
    import uvloop
    import yoyo

    import toolbox_cli.cli
    import toolbox_cli.cli.render
    import toolbox_cli.core.cutover
    import toolbox_cli.core.target
    import toolbox_cli.core.verify
    import toolbox_cli.db.embeddings
    import toolbox_cli.db.inspection
    import toolbox_cli.db.registry
    import toolbox_cli.domain.settings
    import toolbox_cli.embedding.http

    del httpx, numpy, uvloop, yoyo, toolbox_cli
    for line in sys.stdin:
        run = _run(json.loads(line))
        print(json.dumps(run.__dict__), flush=True)


if __name__ == "__main__":
    main()
