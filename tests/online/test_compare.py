"""compare: two generations on the same questions, with known answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli import Service, Toolbox
from support.registries import execute, rows
from support.reindexing import TOOLS
from support.vectors import vectors_of

from toolbox_cli.core.metrics import interval, recall_at, reciprocal_rank
from toolbox_cli.core.recall import share_found
from toolbox_cli.domain.models import SearchHit


def text_of(conninfo: str, name: str) -> str:
    return str(
        rows(conninfo, "SELECT toolbox_tool_text(name, description, input_schema) FROM tools WHERE name = %s", [name])[
            0
        ][0]
    )


def questions(path: Path, *entries: Any) -> str:
    path.write_text("".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in entries))
    return str(path)


def test_labelled_questions_tell_which_is_better(
    toolbox: Toolbox, built: str, new_service: Service, tmp_path: Path
) -> None:
    """The new service is told to make another vector of every tool's text, so that it finds none by it."""
    asked = [{"query": text_of(built, f"tool_{n}"), "relevant": [f"tool_{n}"]} for n in range(1, 31)]
    file = questions(tmp_path / "asked.jsonl", *asked)
    same = toolbox("compare", "--queries", file, "--json").ok().json
    assert (same["questions"], same["labelled"], same["questions_from"]) == (30, 30, "a file")
    assert same["old"]["quality"] == same["new"]["quality"]
    assert same["old"]["quality"] == {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "mrr@10": 1.0}
    assert {d["verdict"] for d in same["differences"]} == {"unclear"}
    assert same["agreement"]["first_same"] == 1.0

    execute(built, "UPDATE tools SET embedding_next = array_fill(-1, ARRAY[16])::vector WHERE id % 3 = 0")
    worse = toolbox("compare", "--queries", file, "--json").ok().json
    by_measure = {d["measure"]: d for d in worse["differences"]}
    assert by_measure["recall@1"]["new"] == pytest.approx(20 / 30, abs=0.01)
    assert by_measure["recall@1"]["verdict"] == "worse"
    assert by_measure["recall@1"]["low"] <= by_measure["recall@1"]["difference"] <= by_measure["recall@1"]["high"] < 0
    assert "worse" in toolbox("compare", "--queries", file).ok().out


def test_plain_lines_and_what_changes_most(toolbox: Toolbox, built: str, tmp_path: Path) -> None:
    file = questions(tmp_path / "lines.txt", "send a letter", "", "  boil an egg  ")
    found = toolbox("compare", "--queries", file, "--json", "--limit", "5").ok().json
    assert (found["questions"], found["labelled"], found["limit"]) == (2, 0, 5)
    assert found["old"]["quality"] is None
    assert found["differences"] == []
    assert [change["query"] for change in found["changes"]]
    for change in found["changes"]:
        names = [{hit["name"] for hit in change[side]} for side in ("old", "new")]
        assert [len(side) for side in names] == [5, 5]
        assert change["overlap"] == pytest.approx(len(names[0] & names[1]) / 5)
    histogram = found["agreement"]["histogram"]
    assert (len(histogram), sum(histogram)) == (6, 2)
    assert found["agreement"]["overlap"] == pytest.approx(sum(n * c for n, c in enumerate(histogram)) / 10)


def test_without_a_file_the_tools_themselves_ask(toolbox: Toolbox, built: str) -> None:
    found = toolbox("compare", "--json").ok().json
    assert found["questions_from"] == "the tools' own texts"
    assert found["questions"] == TOOLS
    again = toolbox("compare", "--json").ok().json
    for side in ("old", "new"):
        del found[side]["latency"], again[side]["latency"]
    assert found == again, "two looks agree"
    assert (found["old"]["role"], found["new"]["role"]) == ("current", "building")
    assert found["old"]["index_recall"] == found["new"]["index_recall"] == 1.0
    assert all(0 < found[side]["suggested_threshold"] <= 1 for side in ("old", "new"))
    assert sum(found["old"]["similarities"]["counts"]) == TOOLS * 50


def test_the_threshold_that_lets_the_same_share_through(toolbox: Toolbox, built: str, tmp_path: Path) -> None:
    file = questions(tmp_path / "asked.txt", *(f"question {n}" for n in range(20)))
    found = toolbox("compare", "--queries", file, "--threshold", "0.31", "--json").ok().json
    (asked,) = (t for t in found["thresholds"] if t["old"] == 0.31)
    assert 0 < asked["share"] < 1
    results = {"old": [], "new": []}  # type: dict[str, list[float]]
    for n in range(20):
        for side, role in (("old", "current"), ("new", "building")):
            results[side] += similarities(toolbox, built, f"question {n}", role)
    assert asked["share"] == pytest.approx(np.mean(np.array(results["old"]) >= 0.31), abs=1e-3)
    assert np.mean(np.array(results["new"]) >= asked["new"]) == pytest.approx(asked["share"], abs=0.002)


def similarities(toolbox: Toolbox, conninfo: str, question: str, role: str) -> list[float]:
    """Of the fifty nearest, computed from the vectors themselves."""

    column, model, dimension = (
        ("embedding", "test-model", 8) if role == "current" else ("embedding_next", "new-model", 16)
    )
    asked = vectors_of(model, [question], dimension)[0]
    stored = np.array([json.loads(text) for (text,) in rows(conninfo, f"SELECT {column}::text FROM tools")])
    cosines = stored @ asked / np.linalg.norm(stored, axis=1)
    return sorted((float(cosine) for cosine in cosines), reverse=True)[:50]


def test_after_the_cutover_the_former_one_is_compared(toolbox: Toolbox, built: str) -> None:
    toolbox("cutover").ok()
    found = toolbox("compare", "--json").ok().json
    assert (found["old"]["role"], found["old"]["model"]) == ("previous", "test-model")
    assert (found["new"]["role"], found["new"]["model"]) == ("current", "new-model")
    toolbox("prune", "--yes").ok()
    toolbox("compare").refused(5, "only one generation", "migrate --online")


def test_the_page_is_complete_in_itself(toolbox: Toolbox, built: str, tmp_path: Path) -> None:
    hostile = {"query": "<script>alert('x')</script> </script>", "relevant": ["tool_1", "<b>"]}
    file = questions(tmp_path / "asked.jsonl", hostile, "another question")
    page = tmp_path / "report.html"
    assert str(page) in toolbox("compare", "--queries", file, "--html", str(page)).ok().out
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text
    # The library's script is in the page; nothing is fetched from anywhere.
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", outside)
    assert "Plotly.react" in text
    assert "prefers-color-scheme: dark" in text
    (charts,) = re.findall(r"const charts = (\{.*\});", text)
    figures = json.loads(charts.replace("<\\/", "</"))
    assert set(figures) == {"similarity", "overlap", "quality", "latency"}
    assert all(f'id="{name}"' in text for name in figures)
    assert sum(figures["similarity"]["data"][0]["y"]) == 100


def test_bad_input(toolbox: Toolbox, built: str, new_service: Service, tmp_path: Path) -> None:
    asked = new_service.stats.requests
    toolbox("compare", "--queries", str(tmp_path)).refused(2, "is a directory", "One question a line".lower()[:12])
    toolbox("compare", "--queries", str(tmp_path / "none")).refused(2, "does not exist")
    for content, words in (
        (b"", "has no question"),
        (b"\n \n", "has no question"),
        (b'{"query": 7}\n', "line 1: query"),
        (b'fine\n{"query": "x", "relevant": "tool_1"}\n', "line 2: relevant"),
        (b"fine\n{broken\n", "line 2: begins with {"),
        (b"\xff\xfe\n", "line 1: is not UTF-8"),
        (b"a\x00b\n", "line 1: holds a NUL"),
        (b"x" * 70_000, "line 1: longer than"),
    ):
        file = tmp_path / "questions"
        file.write_bytes(content)
        toolbox("compare", "--queries", str(file)).refused(2, words)
    file.write_text("fine\n")
    toolbox("compare", "--queries", str(file), "--html", str(tmp_path)).refused(2, "cannot be written")
    toolbox("compare", "--queries", str(file), "--html", str(tmp_path / "no" / "r.html")).refused(
        2, "cannot be written"
    )
    assert new_service.stats.requests == asked, "nothing was paid before it was known that it can be written"
    new_service.stop()
    toolbox("compare", "--queries", str(file), TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "cannot reach")


def test_measures() -> None:
    ranked = ["a", "b", "c", "d", "e", "f"]
    assert recall_at(ranked, ["a"], 1) == 1
    assert recall_at(ranked, ["a", "f"], 5) == 0.5
    assert recall_at(ranked, ["z"], 5) == 0
    assert reciprocal_rank(ranked, ["c", "d"]) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranked, ["z"]) == 0
    found = interval([1.0] * 50 + [0.0] * 50)
    assert found.mean == 0.5
    assert 0.38 < found.low < 0.42
    assert 0.58 < found.high < 0.62
    assert interval([0.25] * 9) == interval([0.25] * 9).model_copy(update={"mean": 0.25, "low": 0.25, "high": 0.25})


def test_share_found_counts_equal_vectors_as_found() -> None:
    def hits(*similarities: float) -> list[SearchHit]:
        return [
            SearchHit(id=n, name=str(n), description="", category="", similarity=s) for n, s in enumerate(similarities)
        ]

    assert share_found(hits(1, 0.9, 0.5), hits(1, 0.9, 0.8)) == pytest.approx(2 / 3)
    assert share_found(hits(1, 0.8, 0.8), hits(1, 0.8, 0.8)) == 1
    assert share_found([], []) == 1
    assert share_found([], hits(1)) == 0
