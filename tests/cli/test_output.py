"""What is shown where: terminals of several widths, pipes, closed pipes, full disks, NO_COLOR."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Outcome, Service, Toolbox, finish, start
from support.registries import execute

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """The program on a terminal of its own; ``text`` is all that was ever written to it."""

    def __init__(self, *arguments: str, width: int = 80, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        # A terminal of a known kind; CI services set variables that rich takes for a terminal without colours.
        settings = {"TERM": "xterm-256color", "COLUMNS": str(width), **environment}
        self.process = start(*arguments, stdin=slave, stdout=slave, stderr=slave, env=settings, start_new_session=True)
        os.close(slave)
        self.text = ""

    def read_until(self, seen: Callable[[str], bool] | None = None) -> str:
        """Read until something is seen, or to the end."""
        while seen is None or not seen(self.text):
            ready, _, _ = select.select([self._master], [], [], 30)
            assert ready, f"nothing more within 30 s after: {self.text!r}"
            try:
                piece = os.read(self._master, 65536)
            except OSError as exc:
                assert exc.errno == errno.EIO  # noqa: PT017 - how a pty says that the other side is gone
                piece = b""
            if not piece:
                assert seen is None, f"ended with: {self.text!r}"
                break
            self.text += piece.decode("utf-8", "replace")
        return self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        self.read_until()
        code = self.process.wait(10)
        os.close(self._master)
        return code


def on_terminal(*arguments: str, width: int = 80, **environment: str) -> list[str]:
    """The lines that a command shows, without colours."""
    terminal = Terminal(*arguments, width=width, **environment)
    assert terminal.end() == 0, terminal.text
    return ANSI.sub("", terminal.text).replace("\r\n", "\n").splitlines()


@pytest.fixture
def filled(registry: str, service: Service, toolbox: Toolbox) -> str:
    """The sample catalogue with embeddings, and one tool whose texts would spoil a terminal."""
    toolbox("import", "--sample").ok()
    execute(
        registry,
        "INSERT INTO tools (name, description, category, tags, input_schema, implementation_type, is_active, version,"
        " created_at, updated_at) VALUES (%s, %s, %s, '[]', '{}', 'external', true, '1', now(), now())",
        ["a" * 255, "evil \x1b[2J\x07 text\nof two lines [bold]", "c" * 100],
    )
    toolbox("reindex").ok()
    return registry


def test_nothing_is_wider_than_the_terminal(filled: str) -> None:
    for command in (
        ["search", "calculate numbers", "-n", "4", "--threshold", "-1"],
        ["list", "-n", "30"],
        ["status"],
        ["verify", "--offline"],
    ):
        lines = on_terminal(*command, width=80)
        assert max(map(len, lines)) <= 80, command
        assert not any("\x1b" in line or "\x07" in line for line in lines)


def test_search_at_80_columns(filled: str) -> None:
    question = ("search", "calculate numbers", "-n", "200", "--category", "math")
    assert on_terminal(*question, width=80)[0].split() == ["name", "category", "similarity", "words", "description"]
    header, *hits = on_terminal(*question, "--mode", "vector", width=80)
    assert header.split() == ["name", "category", "similarity", "description"]
    for rank, hit in enumerate(hits, start=1):
        assert re.match(rf"\s*{rank}  \S+.*math\s+[█░]{{8}} -?\d\.\d{{3}}\s+\S", hit), hit
    assert any(hit.endswith("…") for hit in hits)


def test_names_and_schemas_are_whole_where_there_is_room(filled: str) -> None:
    wide = on_terminal("list", "-n", "30", width=600)
    assert any("a" * 255 in line for line in wide)
    models = on_terminal("models", width=80)
    assert "multilingual-e5-large-instruct       1024  1024             512 tokens" in models
    shown = "\n".join(on_terminal("show", "calculator", width=80))
    assert shown.startswith("calculator  (id ")
    assert '"description": "First number"' in shown


def test_a_pipe_gets_whole_lines_and_no_decoration(filled: str, toolbox: Toolbox) -> None:
    listed = toolbox("list").ok()
    assert "\x1b" not in listed.out
    assert listed.err == ""
    lines = listed.out.splitlines()
    assert len(lines) == 252, "one line a tool, and the header"
    assert not any(line.endswith(" ") for line in lines)
    assert any("\\x1b[2J\\x07 text of two lines [bold]" in line for line in lines)
    assert max(map(len, lines)) > 255
    page = toolbox("list", "--limit", "10", "--offset", "5").ok()
    assert len(page.out.splitlines()) == 11
    assert page.err == "note: 6–15 of 251 active tools\n"
    assert "\x1b" not in toolbox("search", "x").ok().out + toolbox("status").ok().out + toolbox("models").ok().out


def test_empty_answers_say_why(registry: str, service: Service, toolbox: Toolbox) -> None:
    assert toolbox("list").ok().out.startswith("There is no active tool. `toolbox import FILE`")
    assert "category 'none'" in toolbox("list", "--category", "none").ok().out
    assert "no active tools yet" in toolbox("status").ok().out
    toolbox("import", "--sample").ok()
    assert "none after 900" in toolbox("list", "--offset", "900").ok().out
    assert "toolbox reindex" in toolbox("status").ok().out
    assert "no active tool has an embedding" in toolbox("search", "x", "--mode", "vector").ok().out
    assert "no active tool has category 'none'" in toolbox("search", "x", "--category", "none").ok().out
    assert "there is 'web'" in toolbox("search", "x", "--category", "Wed").ok().out
    toolbox("list", "--category", "web").ok()
    assert (
        "with category 'web' has an embedding"
        in toolbox("search", "x", "--category", "web", "--mode", "vector").ok().out
    )
    said = toolbox("eval", "--sample").ok().err
    assert "note: no tool has an embedding yet, so only words can find one: `toolbox reindex`\n" in said
    assert "has one of the words" in toolbox("search", "xyzzy", "--mode", "text").ok().out
    assert toolbox("prune").ok().out == "Nothing to drop: no vectors are kept for a roll back.\n"
    assert toolbox("deactivate", "calculator").ok().out == "calculator is now inactive\n"
    assert toolbox("deactivate", "calculator").ok().out == "calculator is already inactive\n"


def test_colours_only_on_a_terminal_that_wants_them(filled: str) -> None:
    coloured = Terminal("verify", "--offline")
    coloured.end()
    assert "\x1b[32m" in coloured.text
    plain = Terminal("verify", "--offline", NO_COLOR="1")
    plain.end()
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", plain.text)


def test_a_bar_with_rate_and_time_left_that_vanishes(registry: str, service: Service, toolbox: Toolbox) -> None:
    toolbox("import", "--sample").ok()
    service.behaviour.latency = 0.1
    terminal = Terminal("reindex", "--batch-size", "20", "--concurrency", "1", width=100)
    terminal.read_until(lambda text: re.search(r"\d+/250.* [\d,]+/s .*\d:\d\d:\d\d", text) is not None)
    assert terminal.end() == 0
    # The line is erased, the cursor is shown again, and the summary is what stays.
    assert terminal.text.rindex("\x1b[2K") < terminal.text.index("250 embedded")
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")

    piped = toolbox("reindex", "--all").ok()
    assert piped.err == ""
    dumb = Terminal("reindex", "--all", TERM="dumb")
    assert dumb.end() == 0
    assert "\x1b" not in dumb.text


def test_ctrl_c_leaves_the_terminal_in_order(registry: str, service: Service, toolbox: Toolbox) -> None:
    toolbox("import", "--sample").ok()
    service.behaviour.latency = 0.2
    terminal = Terminal("reindex", "--batch-size", "5", "--concurrency", "1")
    terminal.read_until(lambda text: "/250" in text)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert terminal.text.count("error: interrupted") == 1
    assert "Traceback" not in terminal.text


def test_a_question_is_asked_on_a_terminal_only(filled: str, service: Service, toolbox: Toolbox) -> None:
    toolbox("migrate", "--dimension", "9", "--model", "other").ok()
    toolbox("prune").refused(1, "251 vectors", "--yes")

    for answer, code, last in (("n\n", 1, "error: not agreed"), ("\x03", 130, "error: interrupted")):
        asking = Terminal("prune")
        asking.read_until(lambda text: "Go on?" in text)
        assert "LOST FOR GOOD" in asking.text
        if answer == "\x03":
            # CPython itself notices a signal late that comes between its prompt and its read.
            time.sleep(0.5)
            asking.process.send_signal(signal.SIGINT)
        else:
            asking.type(answer)
        assert asking.end() == code
        assert last in asking.text
    assert toolbox("status", "--json").ok().json["generations"]["previous"] is not None

    agreeing = Terminal("prune")
    agreeing.read_until(lambda text: "Go on?" in text)
    agreeing.type("y\n")
    assert agreeing.end() == 0
    assert toolbox("status", "--json").ok().json["generations"]["previous"] is None


def closed_pipe(*arguments: str) -> Outcome:
    """The reader takes one line, like ``head -1``, and goes."""
    process = start(*arguments)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(20)
    return Outcome(process.returncode, "", err)


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["export"]])
def test_a_reader_that_goes_away_is_no_error(filled: str, command: list[str]) -> None:
    # More than a pipe holds (64 KiB), so that the program is still writing when the reader goes.
    execute(filled, "UPDATE tools SET description = repeat(description, 100)")
    assert closed_pipe(*command) == Outcome(0, "", "")


@pytest.mark.parametrize("command", [["models"], ["models", "--json"]])
def test_a_full_disk_is_named(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        outcome = finish(start(*command, stdout=full))
    assert outcome.code == 1, outcome
    assert "No space left" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_encoding_without_blocks_gets_no_traceback() -> None:
    outcome = finish(start("models", env={"PYTHONIOENCODING": "latin-1"}))
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    document = finish(start("models", "--json", env={"PYTHONIOENCODING": "latin-1"}))
    assert any("–" in model["dimensions"] for model in json.loads(document.out)["models"])


def test_what_a_service_says_cannot_steer_the_terminal(registry: str, service: Service, toolbox: Toolbox) -> None:
    service.behaviour.refuse = {"hello": 400}
    service.behaviour.refuse_message = "no\x1b[2J\nerror: second line \u202e"
    outcome = toolbox("search", "hello").refused(2, "cannot be embedded")
    assert not set("\x1b\u202e") & set(outcome.err)


def test_without_any_output_a_command_still_ends_well() -> None:
    process = start("models", stdout=None, preexec_fn=lambda: os.close(1))
    assert finish(process) == Outcome(0, "", "")


def test_help_and_version(toolbox: Toolbox) -> None:
    alone = toolbox().ok()
    assert alone == toolbox("--help").ok()
    assert "migrate" in alone.out
    assert toolbox("db").ok() == toolbox("db", "--help").ok()
    assert re.fullmatch(r"toolbox \d+\.\d+\.\d+\n", toolbox("--version").ok().out)


def test_the_module_is_the_program() -> None:
    process = start("--version", stderr=subprocess.STDOUT)
    assert finish(process).out.startswith("toolbox ")
