"""eval: labelled questions through each mode, with known answers; and the bundled ones, which CI reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Service, Toolbox
from support.registries import execute, rows
from support.reindexing import add_tools

from toolbox_cli.core.catalog_data import open_sample, open_sample_questions
from toolbox_cli.core.questions import read_questions


def test_hybrid_finds_more_than_vectors_and_more_than_words(toolbox: Toolbox, catalogue: str) -> None:
    """On the bundled questions with the built-in model. What it prints is what CI reports."""
    report = toolbox("eval", "--sample").ok().out
    print(report)
    found = toolbox("eval", "--sample", "--json").ok().json
    assert found["queries"] >= 150
    assert set(found["modes"]) == {"vector", "text", "hybrid"}
    recall = {mode: values["recall@5"] for mode, values in found["modes"].items()}
    assert recall["hybrid"] > recall["vector"]
    assert recall["hybrid"] > recall["text"]
    for mode, values in found["modes"].items():
        assert set(values) == {"recall@1", "recall@5", "recall@10", "mrr@10"}
        for measure, mean in values.items():
            low, high = found["intervals"][mode][measure]
            assert low <= mean <= high
            assert high - low < 0.15
        assert f"{mode:<6}  {values['recall@1']:.3f}" in report
    assert found["misses"]
    for miss in found["misses"]:
        assert miss["place"] is None or miss["place"] > 1
        assert set(miss["found"][:1]).isdisjoint(miss["relevant"])


def test_the_bundled_questions_go_with_the_bundled_catalogue() -> None:
    with open_sample() as stream:
        names = {json.loads(line)["name"] for line in stream}
    with open_sample_questions() as stream:
        questions = read_questions(stream, "bundled")
    assert len(questions) >= 150
    assert {name for question in questions for name in question.relevant} <= names
    for question in questions:
        words = question.query.lower()
        for name in question.relevant:
            assert name.lower() not in words
            assert name.lower().replace("_", " ") not in words


def test_known_answers(toolbox: Toolbox, registry: str, service: Service, tmp_path: Path) -> None:
    add_tools(registry, 30)
    toolbox("reindex").ok()
    texts = dict(rows(registry, "SELECT name, toolbox_tool_text(name, description, input_schema) FROM tools"))
    file = tmp_path / "asked.jsonl"
    entries = [{"query": texts[f"tool_{n}"], "relevant": [f"tool_{n}"]} for n in range(1, 9)]
    # Asked for the text of another tool: never first.
    entries += [{"query": texts["tool_10"], "relevant": ["tool_11"], "note": "ignored"}]
    entries += [{"query": "something", "relevant": ["gone"]}, {"query": "unlabelled"}]
    file.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    found = toolbox("eval", str(file), "--json").ok().json
    assert (found["queries"], found["skipped"], found["unknown"]) == (9, 1, ["gone"])
    assert found["modes"]["vector"]["recall@1"] == pytest.approx(8 / 9, abs=1e-3)
    assert [miss["query"] for miss in found["misses"]] == [texts["tool_10"]]
    assert "1 left out" in toolbox("eval", str(file)).ok().out
    only = toolbox("eval", str(file), "--mode", "text", "--json").ok().json
    assert set(only["modes"]) == {"text"}
    twice = toolbox("eval", str(file), "--mode", "text", "--mode", "text", "--json").ok().json
    assert twice["modes"] == only["modes"]

    service.stop()
    toolbox("eval", str(file), "--mode", "text").ok()
    toolbox("eval", str(file), TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "cannot reach")
    execute(registry, "DROP INDEX ix_tools_text")
    toolbox("eval", str(file), "--mode", "text").refused(5, "no text index")


def test_bad_input(toolbox: Toolbox, registry: str, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    toolbox("eval").refused(2, "either a FILE or --sample")
    toolbox("eval", str(file), "--sample").refused(2, "either a FILE or --sample")
    toolbox("eval", str(file)).refused(2, "does not exist")
    file.write_text("just a line\n")
    toolbox("eval", str(file)).refused(2, "says which tools answer it")
    file.write_text(r'{"query": "x", "relevant": ["a\u0000"]}')
    toolbox("eval", str(file)).refused(2, "line 1", "NUL")
    file.write_text(r'{"query": "x", "relevant": ["a\ud800"]}')
    toolbox("eval", str(file)).refused(2, "UTF-8")
    toolbox("eval", "--sample").refused(1, "none of the tools", "toolbox import --sample")
    assert service.stats.requests == 0
