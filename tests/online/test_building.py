"""migrate --online and reindex: a second generation beside the first, each with the service that is its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.cli import Service, Toolbox, finish, said, start
from support.registries import (
    applied,
    catalogue_of,
    column_type,
    execute,
    indexes,
    roles,
    rows,
    server_insert,
    value,
    vectors,
)
from support.reindexing import add_tools, census, reindexed

KEY = "sk-a-very-secret-key"


def online(service: Service, *more: str, model: str = "new-model", dimension: int = 16) -> tuple[str, ...]:
    return (
        "migrate", "--online", "--model", model, "--dimension", str(dimension), "--endpoint-url", service.url, *more,
    )  # fmt: skip


def summary(found: dict[str, Any]) -> tuple[str, int, int]:
    return found["generation"], found["embedded"], found["unchanged"]


@pytest.mark.parametrize("dimension", [16, 8], ids=["another dimension", "the same dimension"])
def test_search_and_server_go_on_beside_the_building_generation(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service, dimension: int
) -> None:
    new_service.behaviour.dimension = dimension
    add_tools(registry, 30)
    toolbox("reindex").ok()
    old, found = vectors(registry), toolbox("search", "does thing 7.", "--json").ok().json
    toolbox(*online(new_service, dimension=dimension)).ok()
    assert roles(registry) == {"current": ("test-model", 8), "building": ("new-model", dimension)}
    assert toolbox("search", "does thing 7.", "--json").ok().json == found
    server_insert(registry, "registered_meanwhile")
    assert column_type(registry) == "vector(8)"

    outcome = reindexed(toolbox("reindex", "--json"))
    assert summary(outcome) == ("building", 31, 0)
    assert [summary(other) for other in outcome["others"]] == [("current", 1, 30)]
    assert {name: sent for name, sent in vectors(registry).items() if name in old} == old
    assert len(vectors(registry, "embedding_next")) == 31
    assert "ix_tools_embedding_next" in indexes(registry)
    assert toolbox("search", "does thing 7.", "--json").ok().json["model"] == "test-model"
    assert {body["model"] for body in old_service.stats.bodies} == {"test-model"}
    assert {body["model"] for body in new_service.stats.bodies} == {"new-model"}
    text = toolbox("reindex").ok().out
    assert "current: Nothing to do" in text
    assert "building: Nothing to do" in text


def test_a_registry_of_the_field_goes_online_without_a_signed_model(
    toolbox: Toolbox, alembic_database: str, new_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", alembic_database)
    before = vectors(alembic_database)
    toolbox(*online(new_service)).ok()
    assert applied(alembic_database)[-1] == "003_embedding_generations"
    assert column_type(alembic_database) == "vector(1024)"
    assert roles(alembic_database) == {"current": (None, 1024), "building": ("new-model", 16)}
    outcome = reindexed(toolbox("reindex", "--json"))
    assert outcome["generation"] == "building"
    assert outcome["others"] == []
    toolbox("cutover").ok()
    assert roles(alembic_database) == {"current": ("new-model", 16), "previous": (None, 1024)}
    toolbox("rollback").ok()
    assert vectors(alembic_database) == before


def test_nothing_is_touched_before_the_new_service_has_answered(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    before = catalogue_of(registry)
    new_service.behaviour.api_key = KEY
    toolbox(*online(new_service), TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "401")
    new_service.behaviour.api_key = None
    assert "answered vectors of 16 dimensions" in toolbox(*online(new_service, dimension=12)).refused(6).err
    new_service.stop()
    toolbox(*online(new_service), TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "cannot reach")
    toolbox(*online(new_service), "--dry-run", TOOLBOX_RETRY_TIMEOUT="0.2").refused(6, "cannot reach")
    assert catalogue_of(registry) == before


def test_a_generation_remembers_the_name_of_its_key_and_never_the_key(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 3)
    new_service.behaviour.api_key = KEY
    old_service.behaviour.api_key = "another"
    keys = {"NEW_KEY": KEY, "EMBEDDING_API_KEY": "another"}
    before = catalogue_of(registry)
    refused = toolbox(*online(new_service, "--api-key-env", KEY), **keys).refused(2, "no name of a variable")
    assert KEY not in refused.err
    toolbox(*online(new_service, "--api-key-env", "NOT_SET"), **keys).refused(3, "NOT_SET")
    assert catalogue_of(registry) == before
    toolbox(*online(new_service, "--api-key-env", "NEW_KEY"), **keys).ok()
    toolbox("reindex", **keys).ok()
    toolbox("cutover", **keys).ok()
    toolbox("search", "does thing 1.", **keys).ok()
    everything = rows(registry, "SELECT to_jsonb(g)::text FROM embedding_generations g")
    assert KEY not in str(everything)
    assert {"NEW_KEY", "EMBEDDING_API_KEY"} == {
        name for (name,) in rows(registry, "SELECT api_key_env FROM embedding_generations")
    }
    toolbox("rollback", **keys).ok()
    toolbox("search", "does thing 1.", **keys).ok()
    del keys["NEW_KEY"]
    toolbox("reindex", "--generation", "building", "--all", **keys).refused(6, "401", notes=True)


def test_each_generation_keeps_to_its_own_service_whatever_the_settings_say(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    """The settings of the server still name the old service when the new model has taken over."""
    add_tools(registry, 5)
    toolbox("reindex").ok()
    toolbox(*online(new_service)).ok()
    toolbox("reindex").ok()
    toolbox("cutover").ok()
    settings = {"EMBEDDING_ENDPOINT_URL": old_service.url}
    for environment in (settings, settings | {"EMBEDDING_MODEL": ""}):
        asked = old_service.stats.requests
        found = toolbox("search", "tool 3: does thing 3.", "--json", **environment)
        assert found.json["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert "that one is used" in found.err
        assert old_service.stats.requests == asked
    verified = toolbox("verify", "--json", EMBEDDING_MODEL="new-model").ok().json
    assert verified["ok"]


def test_running_it_again_and_for_another_model(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 3)
    toolbox(*online(new_service)).ok()
    before = catalogue_of(registry)
    again = toolbox(*online(new_service)).ok().out
    assert "Nothing to do: these embeddings are being built already." in again
    assert "Next: toolbox reindex fills the new column" in again
    toolbox(*online(new_service, model="third-model")).refused(5, "is being built", "toolbox cutover")
    toolbox("migrate", "--model", "third-model", "--dimension", "16").refused(5, "is being built")
    assert catalogue_of(registry) == before


def test_the_same_generation_is_no_second_one(toolbox: Toolbox, registry: str, old_service: Service) -> None:
    toolbox(*online(old_service, model="test-model", dimension=8)).ok()
    assert roles(registry) == {"current": ("test-model", 8)}


def test_what_was_set_aside_is_taken_up_again_and_not_paid_for_twice(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 20)
    for command in (("reindex",), online(new_service), ("reindex",), ("cutover",), ("rollback",)):
        toolbox(*command).ok()
    paid, newer = new_service.stats.embedded, vectors(registry, "embedding_next")
    toolbox("reindex").ok()
    toolbox(*online(new_service)).ok()
    assert reindexed(toolbox("reindex", "--json"))["unchanged"] == 20
    toolbox("cutover").ok()
    assert vectors(registry) == newer
    # The probe before the migration, and nothing else.
    assert new_service.stats.embedded == paid + 1


def test_going_back_to_the_former_model_online_builds_on_what_is_there(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 20)
    for command in (("reindex",), online(new_service), ("reindex",), ("cutover",)):
        toolbox(*command).ok()
    old, paid = vectors(registry, "embedding_previous"), old_service.stats.embedded
    begun = toolbox(*online(old_service, model="test-model", dimension=8)).ok().out
    assert "Next: toolbox cutover lets search read the new embeddings" in begun
    assert roles(registry) == {"current": ("new-model", 16), "building": ("test-model", 8)}
    assert vectors(registry, "embedding_next") == old
    execute(registry, "UPDATE tools SET description = 'edited' WHERE name = 'tool_1'")
    assert summary(reindexed(toolbox("reindex", "--json"))) == ("building", 1, 19)
    assert old_service.stats.embedded == paid + 2
    toolbox("cutover").ok()


def test_a_former_generation_that_is_built_again_is_given_up_without_a_loss(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 5)
    for command in (("reindex",), online(new_service), ("reindex",), ("cutover",)):
        toolbox(*command).ok()
    old, begin = vectors(registry, "embedding_previous"), online(old_service, model="test-model", dimension=8)
    toolbox(*begin).ok()
    given_up = toolbox("rollback").ok().out
    assert "its vectors stay" in given_up
    assert "already rolled back" in toolbox("rollback").ok().out
    assert "already rolled back" in toolbox("rollback", "--yes").ok().out
    assert vectors(registry, "embedding_next") == old
    assert toolbox("status", "--json").ok().json["generations"]["building"]["rolled_back"]
    toolbox(*begin).ok()
    toolbox("cutover").ok()
    assert vectors(registry) == old


def test_what_a_cutover_would_drop_is_said_when_it_begins(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 4)
    for command in (("reindex",), online(new_service), ("reindex",), ("cutover",)):
        toolbox(*command).ok()
    begun = toolbox(*online(new_service, model="third-model")).ok()
    assert "toolbox prune" in begun.out
    toolbox("reindex").ok()
    refused = toolbox("cutover")
    assert refused.code == 1
    assert "4 vectors of 8 dimensions by test-model" in refused.err
    toolbox("reindex", "--cutover").refused(1, "4 vectors of 8 dimensions")
    assert toolbox("status", "--json").ok().json["blockers"] == [
        "needs an agreement, it would be lost: 4 vectors of 8 dimensions by test-model (column embedding_previous)"
    ]
    toolbox("cutover", "--yes").ok()
    assert roles(registry) == {"current": ("third-model", 16), "previous": ("new-model", 16)}


def test_a_dead_service_of_the_old_model_does_not_keep_the_new_one_from_being_filled(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 6)
    toolbox("reindex").ok()
    toolbox(*online(new_service)).ok()
    add_tools(registry, 2, prefix="newer")
    old_service.stop()
    outcome = toolbox("reindex", "--json", TOOLBOX_RETRY_TIMEOUT="0.2")
    assert outcome.code == 6
    assert summary(outcome.json) == ("building", 8, 0)
    assert outcome.json["others"][0]["embedded"] == 0
    assert "cannot reach" in outcome.err
    toolbox("reindex", "--generation", "building").ok()
    toolbox("cutover").ok()
    assert census(toolbox)["fresh"] == 8


def test_previous_is_kept_fresh_on_request(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 6)
    for command in (("reindex",), online(new_service), ("reindex",), ("cutover",)):
        toolbox(*command).ok()
    add_tools(registry, 3, prefix="newer")
    outcome = reindexed(toolbox("reindex", "--json"))
    assert summary(outcome) == ("current", 3, 6)
    asked = old_service.stats.embedded
    outcome = reindexed(toolbox("reindex", "--generation", "previous", "--json"))
    assert summary(outcome) == ("previous", 3, 6)
    assert old_service.stats.embedded == asked + 3
    toolbox("rollback").ok()
    assert census(toolbox) == {"active": 9, "fresh": 9, "stale": 0, "missing": 0, "failed": 0}
    toolbox("reindex", "--generation", "previous").refused(5, "no previous generation")


def test_all_and_limit_over_two_generations(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 10)
    toolbox("reindex").ok()
    toolbox(*online(new_service)).ok()
    execute(registry, "UPDATE tools SET description = 'edited' WHERE name IN ('tool_1', 'tool_2')")
    planned = toolbox("reindex", "--dry-run", "--limit", "5", "--json").ok().json
    assert (planned["generation"], planned["pending"]) == ("building", 3)
    assert [other["pending"] for other in planned["others"]] == [2]
    assert "current: 2 of 10 tools" in toolbox("reindex", "--dry-run").ok().out
    outcome = reindexed(toolbox("reindex", "--limit", "5", "--json"))
    assert (outcome["embedded"], outcome["others"][0]["embedded"]) == (3, 2)
    # Built when the load is over, and not before.
    assert "ix_tools_embedding_next" not in indexes(registry) or census_of(toolbox, "building")["missing"] == 7
    asked = old_service.stats.embedded
    assert reindexed(toolbox("reindex", "--all", "--json"))["embedded"] == 10
    assert old_service.stats.embedded == asked


def census_of(toolbox: Toolbox, role: str) -> dict[str, int]:
    found: dict[str, int] = toolbox("status", "--json").ok().json["generations"][role]["census"]
    return found


def test_the_index_waits_for_the_load(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 300)
    toolbox(*online(new_service)).ok()
    toolbox("reindex", "--generation", "building", "--limit", "100").ok()
    assert "ix_tools_embedding_next" not in indexes(registry)
    toolbox("reindex", "--generation", "building").ok()
    assert not indexes(registry)["ix_tools_embedding_next"].startswith("!")


def test_an_invalid_left_over_of_a_build_is_found_and_replaced(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 20)
    toolbox(*online(new_service)).ok()
    toolbox("reindex").ok()
    execute(registry, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_embedding_next'::regclass")
    refused = toolbox("cutover")
    assert refused.code == 1
    assert "it is invalid" in refused.out
    toolbox("reindex").ok()
    assert not indexes(registry)["ix_tools_embedding_next"].startswith("!")
    toolbox("cutover").ok()


def test_a_swap_waits_for_a_reindex_and_never_changes_the_column_under_it(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 40)
    toolbox(*online(new_service)).ok()
    new_service.arrived.clear()
    new_service.hold = threading.Event()
    filling = start("reindex")
    assert new_service.arrived.wait(20)
    refused = toolbox("rollback", "--yes", TOOLBOX_WAIT_TIMEOUT="0.3").refused(5, "toolbox reindex")
    assert "another toolbox command is at work" in refused.err
    waiting = start("migrate", "--index", "none")
    assert "toolbox reindex" in said(waiting, "note: waiting for another toolbox command: ")
    new_service.hold.set()
    assert finish(filling).code == 0
    assert finish(waiting).code == 0
    assert value(registry, "SELECT count(embedding_next) FROM tools") == 40


def test_what_verify_names_mends_the_generation_that_it_looked_at(toolbox: Toolbox, built: str) -> None:
    """Beside one that is being built, which ``reindex --all`` is meant for otherwise."""
    execute(built, "UPDATE tools SET embedding = '[1,0,0,0,0,0,0,0]' WHERE name = 'tool_3'")
    drift = next(check for check in toolbox("verify", "--json").json["checks"] if check["name"] == "drift")
    assert (drift["status"], drift["remedy"]) == ("fail", "toolbox reindex --all --generation current")
    toolbox(*drift["remedy"].split()[1:]).ok()
    toolbox("verify").ok()
