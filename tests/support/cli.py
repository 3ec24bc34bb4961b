"""The program as an operator runs it: in this process for speed, as one of its own where that matters."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from support.service import Answer, Behaviour, EmbeddingService

from toolbox_cli.cli import main

#: The dimension of the registries that ``registry_database`` makes.
DIMENSION = 8


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout; fails for anything beside it."""
        return json.loads(self.out)

    def ok(self) -> Outcome:
        assert self.code == 0, self
        return self

    def refused(self, code: int, *words: str, notes: bool = False) -> Outcome:
        """One line that says what is wrong, one that says what to do, nothing on stdout."""
        assert self.code == code, self
        assert self.out == "", self
        lines = self.err.splitlines()
        if notes:
            lines = [line for line in lines if not line.startswith("note: ")]
        assert len(lines) == 2, self
        assert lines[0].startswith("error: "), self
        assert lines[1].startswith("hint: "), self
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, (word, self)
        return self

    def refused_json(self, code: int) -> dict[str, Any]:
        """The error as scripts read it: one document on stderr, nothing on stdout."""
        assert self.code == code, self
        assert self.out == "", self
        error: dict[str, Any] = json.loads(self.err)["error"]
        assert set(error) == {"type", "message", "hint"}
        return error


class Toolbox(Protocol):
    def __call__(self, *arguments: str, **environment: str) -> Outcome: ...


@pytest.fixture
def toolbox(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    """Run a command in this process; keywords are environment variables of this one command."""

    def run(*arguments: str, **environment: str) -> Outcome:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, out, err)

    return run


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The program as a process of its own, in the present environment and folder."""
    environment = os.environ | options.pop("env", {})
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "toolbox_cli", *arguments], env=environment, text=True, **(streams | options)
    )


def finish(process: subprocess.Popen[str], timeout: float = 30) -> Outcome:
    out, err = process.communicate(timeout=timeout)
    return Outcome(process.returncode, out or "", err or "")


def said(process: subprocess.Popen[str], words: str) -> str:
    """Wait until the process says this on stderr; returns what it has said there so far, which finish leaves out."""
    assert process.stderr is not None
    told = ""
    # One that says nothing and does not end would be read for ever.
    patience = threading.Timer(60, process.kill)
    patience.start()
    try:
        for line in process.stderr:
            told += line
            if words in line:
                return told
    finally:
        patience.cancel()
    raise AssertionError(f"it ended without {words!r}: {told}")


def run_process(*arguments: str, **options: Any) -> Outcome:
    return finish(start(*arguments, **options))


class Service(EmbeddingService):
    """The loopback service that also tells a test when something arrives.

    ``on_texts`` is called, outside of the service's loop, with the texts of every request before it is answered.
    ``hold`` makes requests wait until it is set; ``arrived`` is set by the first request.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        super().__init__(behaviour)
        self.on_texts: Callable[[list[str]], None] | None = None
        self.arrived = threading.Event()
        self.hold: threading.Event | None = None

    async def _embeddings(self, headers: dict[str, str], body: bytes) -> Answer | None:
        texts = json.loads(body)["input"]
        self.arrived.set()
        if self.on_texts is not None:
            await asyncio.to_thread(self.on_texts, texts)
        if self.hold is not None:
            await asyncio.to_thread(self.hold.wait, 30)
        return await super()._embeddings(headers, body)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service of DIMENSION that the settings of the test name."""
    with Service(Behaviour(dimension=DIMENSION)) as running:
        monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def registry(registry_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated, empty registry of DIMENSION that the settings of the test name, with its model."""
    monkeypatch.setenv("DATABASE_URL", registry_database)
    monkeypatch.setenv("EMBEDDING_MODEL", "test-model")
    return registry_database
