"""search by meaning, by words and by both, similar, and how the path is chosen."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from support.cli import Service, Toolbox
from support.registries import execute, opened, server_insert, value
from support.reindexing import add_tools

from toolbox_cli.core.fusion import COVERAGE_WEIGHT, DEPTH, fuse
from toolbox_cli.core.search import hybrid
from toolbox_cli.db import search as search_module
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.domain.models import Role, SearchHit
from toolbox_cli.domain.searching import SearchFilter


def found(toolbox: Toolbox, *arguments: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = toolbox("search", *arguments, "--json").ok().json["results"]
    return results


def names(toolbox: Toolbox, *arguments: str) -> list[str]:
    return [result["name"] for result in found(toolbox, *arguments)]


def make_tool(conninfo: str, name: str, description: str, parameters: tuple[str, ...] = (), **more: Any) -> None:
    schema = json.dumps({"type": "object", "properties": {parameter: {} for parameter in parameters}})
    columns = {"category": "test", "tags": "[]", "is_active": True} | more
    execute(
        conninfo,
        "INSERT INTO tools (name, description, input_schema, category, tags, is_active, implementation_type)"
        " VALUES (%s, %s, %s, %s, %s, %s, 'external')",
        [name, description, schema, columns["category"], columns["tags"], columns["is_active"]],
    )


def test_words_need_no_embedding_and_no_service(toolbox: Toolbox, registry: str, service: Service) -> None:
    make_tool(registry, "weather.getForecast", "Rain and sun for a city", ("postalCode",))
    make_tool(registry, "send_letter", "Post a letter", ("address",))
    make_tool(registry, "resting", "Rain and sun too", is_active=False)
    service.stop()
    for question in ("forecast", "forecasts", "get the FORECASTING please", "postal codes", "sun"):
        assert names(toolbox, question, "--mode", "text") == ["weather.getForecast"], question
    assert names(toolbox, "sun", "--mode", "text", "--include-inactive") == ["resting", "weather.getForecast"]
    document = toolbox("search", "sun", "--mode", "text", "--json").ok().json
    assert (document["mode"], document["model"]) == ("text", None)
    assert document["results"][0]["similarity"] is None
    assert document["results"][0]["coverage"] == document["results"][0]["score"] == 1.0


def test_a_rare_word_counts_more_and_an_unknown_one_counts_against_all(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    for number in range(20):
        make_tool(registry, f"list_{number}", "List things" if number % 2 else "Show things")
    make_tool(registry, "list_invoices", "List the invoices")
    both = found(toolbox, "list invoices", "--mode", "text")
    assert both[0]["name"] == "list_invoices"
    assert both[0]["coverage"] == 1.0
    half = found(toolbox, "invoices of the zyxomma", "--mode", "text")
    assert half[0]["name"] == "list_invoices"
    assert 0.3 < half[0]["coverage"] < 0.5


def test_the_text_index_is_fresh_with_every_statement_of_the_server(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    server_insert(registry, "polish_silverware")
    assert names(toolbox, "silverware", "--mode", "text") == ["polish_silverware"]
    execute(registry, "UPDATE tools SET description = 'Gild porcelain' WHERE name = 'polish_silverware'")
    assert names(toolbox, "porcelain", "--mode", "text") == ["polish_silverware"]
    execute(registry, "DELETE FROM tools WHERE name = 'polish_silverware'")
    assert names(toolbox, "porcelain", "--mode", "text") == []


@pytest.mark.parametrize(
    "description",
    [
        "x" * 3000 + " needle",
        "word " * 200_000 + "needle",
        "C:\\temp\\new 'quoted' & | ! ( needle",
        "𝔘𝔫𝔦 🦄 needle \\u0000",
    ],
    ids=["a long word", "a megabyte", "quotes", "odd characters"],
)
def test_no_text_of_a_tool_makes_the_server_fail(
    toolbox: Toolbox, registry: str, service: Service, description: str
) -> None:
    make_tool(registry, "odd", description, ('it"s', "back\\slash"))
    assert value(registry, "SELECT count(*) FROM tools") == 1
    for question in (description[:2000], "back\\slash", "it's & | ! ( )", "C:\\temp", "''", "\\"):
        found(toolbox, question, "--mode", "text")


def test_hybrid_is_the_default_and_joins_both(toolbox: Toolbox, catalogue: str) -> None:
    document = toolbox("search", "calculate numbers", "--json").ok().json
    assert document["mode"] == "hybrid"
    first = document["results"][0]
    assert first["name"] == "calculator"
    assert first["score"] == pytest.approx(1 + COVERAGE_WEIGHT, abs=1e-3)
    scores = [result["score"] for result in document["results"]]
    assert scores == sorted(scores, reverse=True)
    by_meaning = {
        r["name"]: r["similarity"] for r in found(toolbox, "calculate numbers", "-n", "250", "--mode", "vector")
    }
    for result in document["results"]:
        assert result["similarity"] == pytest.approx(by_meaning[result["name"]], abs=1e-5)
    text = toolbox("search", "calculate numbers").ok().out
    assert text.splitlines()[0].split() == ["name", "category", "similarity", "words", "description"]
    assert "100%" in text.splitlines()[1]


def test_a_tool_that_is_not_embedded_yet_is_found_by_its_words(toolbox: Toolbox, catalogue: str) -> None:
    make_tool(catalogue, "gild_porcelain", "Put gold on porcelain")
    first = found(toolbox, "gild porcelain")[0]
    assert (first["name"], first["similarity"]) == ("gild_porcelain", None)
    assert "not embedded" in toolbox("search", "gild porcelain").ok().out
    assert "gild_porcelain" not in names(toolbox, "gild porcelain", "--threshold", "0.01")


def test_without_a_text_index_search_goes_by_meaning(toolbox: Toolbox, catalogue: str) -> None:
    execute(catalogue, "DROP INDEX ix_tools_text")
    assert toolbox("search", "calculate numbers", "--json").ok().json["mode"] == "vector"
    for mode in ("text", "hybrid"):
        toolbox("search", "x", "--mode", mode).refused(5, "needs the text index", "toolbox migrate")
    execute(catalogue, "CREATE INDEX ix_tools_text ON tools USING gin ((tags::jsonb))")
    execute(catalogue, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_text'::regclass")
    assert toolbox("search", "calculate numbers", "--json").ok().json["mode"] == "vector"
    toolbox("migrate").ok()
    assert toolbox("search", "calculate numbers", "--json").ok().json["mode"] == "hybrid"


def test_filters_and_thresholds(toolbox: Toolbox, catalogue: str) -> None:
    for mode in ("vector", "text", "hybrid"):
        everything = found(toolbox, "send a message", "-n", "50", "--mode", mode)
        mine = found(toolbox, "send a message", "-n", "50", "--mode", mode, "--category", "communication")
        assert 0 < len(mine) < len(everything)
        assert {result["category"] for result in mine} == {"communication"}
        assert names(toolbox, "send a message", "--mode", mode, "--tag", "no such tag") == []
    cut = found(toolbox, "send a message", "-n", "50", "--threshold", "0.4")
    assert cut
    assert all(result["similarity"] >= 0.4 for result in cut)
    assert "the nearest, " in toolbox("search", "send a message", "--threshold", "0.99").ok().out
    toolbox("search", "x", "--mode", "text", "--threshold", "0.5").refused(2, "--threshold")


def test_explain_says_how_and_where_the_time_went(
    toolbox: Toolbox, catalogue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = toolbox("search", "calculate numbers", "--json", "--explain").ok().json["explanation"]
    assert (how["mode"], how["model"], how["path"], how["candidates"]) == ("hybrid", "wordllama", "exact", 250)
    assert how["embedding_seconds"] > 0
    assert how["database_seconds"] > 0
    assert how["total_seconds"] >= how["embedding_seconds"] + how["database_seconds"]
    assert "explanation" not in toolbox("search", "calculate numbers", "--json").ok().json
    text = toolbox("search", "calculate numbers", "--mode", "text", "--explain").ok().out
    assert "path       text index" in text
    monkeypatch.setattr(search_module, "EXACT_UP_TO", 100)
    narrow = toolbox("search", "calculate", "--json", "--explain", "--mode", "vector").ok().json["explanation"]
    wide = (
        toolbox("search", "calculate", "--json", "--explain", "--mode", "vector", "-n", "100").ok().json["explanation"]
    )
    assert (narrow["path"], narrow["index"]) == ("index", "ix_tools_embedding")
    assert narrow["ef_search"] < wide["ef_search"]
    few = toolbox("search", "calculate", "--json", "--explain", "--category", "math").ok().json["explanation"]
    assert few["path"] == "exact"


def test_a_question_that_cannot_be_embedded_or_has_no_words(toolbox: Toolbox, catalogue: str) -> None:
    toolbox("search", "  ").refused(2, "empty")
    assert names(toolbox, "of the and", "--mode", "text") == []
    assert len(found(toolbox, "of the and")) == 5
    assert len(found(toolbox, "翻译 这个 文本")) == 5


def test_words_that_every_tool_has_are_enough_where_there_are_no_others(toolbox: Toolbox, registry: str) -> None:
    add_tools(registry, 1500)
    make_tool(registry, "rare_one", "does a rare thing")
    assert len(names(toolbox, "thing", "--mode", "text")) == 5
    assert names(toolbox, "rare thing", "--mode", "text") == ["rare_one"]


def test_the_nearest_is_named_by_its_similarity(toolbox: Toolbox, catalogue: str) -> None:
    """In a hybrid search the first by both is not always the nearest."""
    question = "what is 48 times 17"
    nearest = found(toolbox, question, "--mode", "vector", "--limit", "1")[0]
    assert f"the nearest, {nearest['name']}, is" in toolbox("search", question, "--threshold", "0.99").ok().out


def test_similar(toolbox: Toolbox, catalogue: str) -> None:
    document = toolbox("similar", "calculator", "--json", "-n", "7").ok().json
    results = [result["name"] for result in document["results"]]
    assert len(results) == 7
    assert "calculator" not in results
    assert results[0] == "matrix_multiply"
    tool_id = str(value(catalogue, "SELECT id FROM tools WHERE name = 'calculator'"))
    assert toolbox("similar", tool_id, "--json", "-n", "7").ok().json == document
    reason = toolbox("similar", "calculator", "--threshold", "0.99").ok().out
    assert reason.startswith("No tool was found")
    assert "the nearest, matrix_multiply, is" in reason
    toolbox("similar", "nobody").refused(1, "nobody")
    make_tool(catalogue, "not_embedded", "x")
    toolbox("similar", "not_embedded").refused(5, "has no embedding yet", "toolbox reindex")


def test_service_down(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 3)
    toolbox("reindex").ok()
    service.stop()
    toolbox("search", "does thing 1", TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "cannot reach")
    assert names(toolbox, "thing", "--mode", "text")
    toolbox("similar", "tool_1").ok()


def hit(tool_id: int, similarity: float | None) -> SearchHit:
    return SearchHit(id=tool_id, name=f"t{tool_id}", description="", category="", similarity=similarity)


def test_fusion_is_the_same_on_another_scale() -> None:
    """A model whose cosines lie between 0.6 and 0.8 is fused as one whose cosines lie between 0 and 1."""
    near = [hit(n, 1 - n / 60) for n in range(60)]
    squeezed = [hit(n, 0.6 + 0.2 * (1 - n / 60)) for n in range(60)]
    coverage = {40: 0.9, 59: 0.2, 70: 0.5}
    first = fuse(near, [hit(70, None)], coverage)
    second = fuse(squeezed, [hit(70, None)], coverage)
    assert [h.id for h in first] == [h.id for h in second]
    assert [h.score for h in first] == pytest.approx([h.score for h in second], abs=2e-4)
    by_id = {h.id: h.score for h in first}
    assert by_id[0] == 1
    assert by_id[DEPTH] == 0
    assert by_id[40] == pytest.approx(0.2 + COVERAGE_WEIGHT * 0.9, abs=1e-3)
    assert by_id[70] == pytest.approx(COVERAGE_WEIGHT * 0.5)
    assert fuse([], [], {}) == []
    assert fuse([hit(1, 0.5)], [], {})[0].score == 1


def test_an_update_of_the_vectors_alone_stays_hot_beside_the_text_index(registry: str) -> None:
    add_tools(registry, 50)
    with psycopg.connect(registry, autocommit=True) as connection:
        connection.execute("DROP INDEX ix_tools_embedding")
        connection.execute("UPDATE tools SET embedding = array_fill(1, ARRAY[8])::vector WHERE id % 4 = 0")
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tools'"
        ).fetchone()
    assert row is not None
    assert row[0] == row[1] > 10


async def test_a_session_that_asks_often_keeps_no_plan_for_whatever_may_be_asked(registry: str) -> None:
    add_tools(registry, 50)
    execute(registry, """UPDATE tools SET tags = '["rare"]' WHERE name = 'tool_7'""")
    execute(registry, "UPDATE tools SET embedding = array_fill(1, ARRAY[8])::vector")
    async with opened(registry) as session:
        generation = (await session.state()).require_generation(Role.CURRENT)
        store = PostgresSearchStore(session.connection)
        for _ in range(8):
            where = SearchFilter(tags=["rare"])
            hits, _ = await hybrid(store, generation, "[1,1,1,1,1,1,1,1]", "tool", where, 5)
            assert [hit.name for hit in hits] == ["tool_7"]
        kept = await session.connection.execute(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%tags%'"
        )
        assert await kept.fetchall() == []
