"""Changes of the embedding space at once, back and forth: nothing is lost that was not agreed to be."""

from __future__ import annotations

import pytest
from support.registries import (
    FORCE,
    carry_out,
    catalogue_of,
    column_type,
    execute,
    fill,
    indexes,
    migrate,
    opened,
    prune,
    random_vectors,
    roles,
    rollback,
    rows,
    schema_of,
    server_insert,
    target,
    value,
    vectors,
)

from toolbox_cli.core.generation import Consent, change
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.domain.changes import Outline
from toolbox_cli.domain.errors import NegativeAnswerError, StateError
from toolbox_cli.domain.models import Role, SearchHit
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.searching import SearchFilter
from toolbox_cli.domain.settings import load_settings

HNSW = "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops)"


async def search(conninfo: str, dimension: int, limit: int = 5) -> list[SearchHit]:
    async with opened(conninfo) as registry:
        generation = (await registry.state()).require_generation(Role.CURRENT)
        vector = random_vectors(1, dimension, seed=42)[0]
        return await PostgresSearchStore(registry.connection).nearest(generation, vector, SearchFilter(), limit)


def heap(conninfo: str) -> list[tuple[object, ...]]:
    """Where every row of the table lies, and which transaction wrote it."""
    file = rows(conninfo, "SELECT pg_relation_filenode('tools')::text, pg_relation_size('tools')::text")
    return file + rows(conninfo, "SELECT ctid::text, xmin::text FROM tools ORDER BY id")


async def test_change_at_once_touches_no_row(registry_database: str) -> None:
    fill(registry_database, 50)
    before, old = heap(registry_database), vectors(registry_database)
    outline = await migrate(registry_database, target(16))
    assert heap(registry_database) == before
    assert vectors(registry_database, "embedding_previous") == old
    assert vectors(registry_database) == {}
    assert outline.retires == ["50 vectors of 8 dimensions (kept for `toolbox rollback`)"]
    assert indexes(registry_database) == {"ix_tools_embedding": HNSW}
    await rollback(registry_database)
    assert heap(registry_database) == before
    assert vectors(registry_database) == old


async def test_rollback_brings_the_former_searches_back(registry_database: str) -> None:
    fill(registry_database, 50)
    before, index = await search(registry_database, 8), indexes(registry_database)
    assert len(before) == 5
    await migrate(registry_database, target(16))
    assert await search(registry_database, 16) == []
    fill(registry_database, 20, prefix="newer")
    assert len(await search(registry_database, 16)) == 5
    await rollback(registry_database)
    assert await search(registry_database, 8) == before
    assert roles(registry_database) == {"current": ("test-model", 8), "building": ("test-model", 16)}
    assert indexes(registry_database)["ix_tools_embedding"] == index["ix_tools_embedding"]


async def test_rollback_twice_is_safe(registry_database: str) -> None:
    fill(registry_database, 3)
    old = vectors(registry_database)
    await migrate(registry_database, target(16))
    await rollback(registry_database)
    before = catalogue_of(registry_database)
    outline = await rollback(registry_database)
    assert outline.empty
    assert "already rolled back" in outline.notes[0]
    assert catalogue_of(registry_database) == before
    assert vectors(registry_database) == old


async def test_rollback_without_a_former_generation(registry_database: str) -> None:
    with pytest.raises(StateError, match="no previous generation") as caught:
        await rollback(registry_database)
    assert caught.value.hint


async def test_rollback_before_adoption(alembic_database: str) -> None:
    with pytest.raises(StateError, match="no record of its embedding generations"):
        await rollback(alembic_database)


async def test_migrate_brings_what_was_set_aside_forward(registry_database: str) -> None:
    fill(registry_database, 30)
    await migrate(registry_database, target(16))
    fill(registry_database, 20, prefix="newer")
    newer, found = vectors(registry_database), await search(registry_database, 16)
    await rollback(registry_database)
    outline = await migrate(registry_database, target(16))
    assert not outline.losses
    assert vectors(registry_database) == newer
    assert len(vectors(registry_database, "embedding_previous")) == 30
    assert await search(registry_database, 16) == found
    assert roles(registry_database) == {"current": ("test-model", 16), "previous": ("test-model", 8)}
    assert value(registry_database, "SELECT count(*) FROM embedding_generations") == 2
    assert (await migrate(registry_database, target(16))).empty


async def test_bringing_forward_takes_the_new_address_and_index_along(registry_database: str) -> None:
    await migrate(registry_database, target(16, index_method="none"))
    assert indexes(registry_database) == {}
    await rollback(registry_database)
    assert indexes(registry_database) == {"ix_tools_embedding": HNSW}
    moved = target(16, endpoint_url="http://127.0.0.1:8/v1/embeddings")
    await migrate(registry_database, moved)
    # The space was asked for without an index, and is again.
    assert "ix_tools_embedding" not in indexes(registry_database)
    recorded = "SELECT endpoint_url, index_method FROM embedding_generations WHERE role = 'current'"
    assert rows(registry_database, recorded) == [("http://127.0.0.1:8/v1/embeddings", "none")]
    await rollback(registry_database)
    await migrate(registry_database, moved.model_copy(update={"index_method": "hnsw"}))
    assert rows(registry_database, recorded)[0][1] == "hnsw"
    assert indexes(registry_database)["ix_tools_embedding"] == HNSW
    assert (await migrate(registry_database, moved)).empty


async def test_migrating_back_to_the_former_generation_takes_its_vectors_up(registry_database: str) -> None:
    """They are not dropped to be paid for again; the present ones are kept instead."""
    fill(registry_database, 5)
    former = vectors(registry_database)
    await migrate(registry_database, target(16))
    fill(registry_database, 3, prefix="newer")
    newer = vectors(registry_database)
    moved = target(8, endpoint_url="http://127.0.0.1:8/v1/embeddings")
    outline = await migrate(registry_database, moved, consent=Consent())
    assert (outline.losses, outline.retires) == ([], [])
    assert vectors(registry_database) == former
    assert vectors(registry_database, "embedding_previous") == newer
    assert roles(registry_database) == {"current": ("test-model", 8), "previous": ("test-model", 16)}
    address = "SELECT endpoint_url FROM embedding_generations WHERE role = 'current'"
    assert value(registry_database, address) == moved.endpoint_url
    assert indexes(registry_database)["ix_tools_embedding"] == HNSW
    assert (await migrate(registry_database, moved)).empty
    await rollback(registry_database, consent=Consent())
    assert vectors(registry_database) == newer
    assert vectors(registry_database, "embedding_next") == former
    await rollback(registry_database)
    await migrate(registry_database, moved, consent=Consent())
    await migrate(registry_database, target(16), consent=Consent())
    assert vectors(registry_database) == newer
    assert vectors(registry_database, "embedding_previous") == former
    assert indexes(registry_database)["ix_tools_embedding"] == HNSW


async def test_a_former_column_that_was_altered_is_not_taken_up(registry_database: str) -> None:
    fill(registry_database, 2)
    await migrate(registry_database, target(16))
    execute(registry_database, "ALTER TABLE tools ALTER embedding_previous TYPE vector(4) USING NULL")
    await migrate(registry_database, target(8))
    assert column_type(registry_database) == "vector(8)"


async def test_a_column_altered_by_another_hand_goes_aside_for_the_former_generation(registry_database: str) -> None:
    fill(registry_database, 5)
    former = vectors(registry_database)
    await migrate(registry_database, target(16))
    execute(registry_database, "ALTER TABLE tools ALTER embedding TYPE vector(4) USING NULL")
    server_insert(registry_database, "of_4")
    foreign = vectors(registry_database)
    await migrate(registry_database, target(8), consent=Consent())
    assert (vectors(registry_database), vectors(registry_database, "embedding_previous")) == (former, foreign)
    assert roles(registry_database) == {"current": ("test-model", 8), "previous": (None, 4)}
    await rollback(registry_database)
    assert vectors(registry_database) == foreign


async def test_another_model_of_the_same_dimension_is_another_generation(registry_database: str) -> None:
    fill(registry_database, 3)
    old = vectors(registry_database)
    await migrate(registry_database, target(8, "another-model"))
    assert vectors(registry_database) == {}
    assert vectors(registry_database, "embedding_previous") == old
    assert roles(registry_database) == {"current": ("another-model", 8), "previous": ("test-model", 8)}


async def test_another_prefix_is_another_generation(registry_database: str) -> None:
    wanted = target()
    prefixed = wanted.space.model_copy(update={"document_prefix": "passage: "})
    await migrate(registry_database, wanted.model_copy(update={"space": prefixed}))
    assert sorted(roles(registry_database)) == ["current", "previous"]


async def test_another_spelling_address_or_query_prefix_is_the_same(registry_database: str) -> None:
    await migrate(registry_database, target(768, "text-embedding-nomic-embed-text-v1.5"))
    server_insert(registry_database, "kept")
    old = vectors(registry_database)
    renamed = target(768, "nomic-embed-text:latest", endpoint_url="http://127.0.0.1:11434/v1/embeddings")
    space = renamed.space.model_copy(update={"query_prefix": "search_query: "})
    outline = await migrate(registry_database, renamed.model_copy(update={"space": space}), consent=Consent())
    assert [step.title for step in outline.steps] == ["service of the current generation"]
    assert vectors(registry_database) == old
    assert roles(registry_database)["current"] == ("nomic-embed-text:latest", 768)
    recorded = rows(registry_database, "SELECT canonical_model, endpoint_url, query_prefix FROM embedding_generations")
    assert ("nomic-embed-text-v1.5", "http://127.0.0.1:11434/v1/embeddings", "search_query: ") in recorded


async def test_column_altered_by_another_hand(registry_database: str) -> None:
    """The server's own next Alembic revision, say: the record and the column disagree, and migrate settles it."""
    fill(registry_database, 4)
    execute(registry_database, "ALTER TABLE tools ALTER embedding TYPE vector(16) USING NULL")
    server_insert(registry_database, "of_16")
    foreign = vectors(registry_database)
    outline = await migrate(registry_database, target(8), consent=Consent())
    assert not outline.losses
    assert column_type(registry_database) == "vector(8)"
    assert vectors(registry_database, "embedding_previous") == foreign
    assert roles(registry_database) == {"current": ("test-model", 8), "previous": (None, 16)}
    server_insert(registry_database, "of_8")
    assert (await migrate(registry_database, target(8))).empty


async def test_prune_frees_what_was_kept(registry_database: str) -> None:
    fill(registry_database, 7)
    whole = schema_of(registry_database)
    await migrate(registry_database, target(16))
    outline = await prune(registry_database)
    assert outline.losses == ["7 vectors of 8 dimensions by test-model (column embedding_previous)"]
    after = schema_of(registry_database)
    assert after == whole | {"columns": whole["columns"] | {"tools.embedding": "vector(16)"}}
    assert roles(registry_database) == {"current": ("test-model", 16)}
    assert (await prune(registry_database)).steps == []
    with pytest.raises(StateError, match="no previous generation"):
        await rollback(registry_database)


async def test_prune_frees_what_was_set_aside(registry_database: str) -> None:
    await migrate(registry_database, target(16))
    fill(registry_database, 2)
    await rollback(registry_database)
    outline = await prune(registry_database)
    assert outline.losses == ["2 vectors of 16 dimensions by test-model (column embedding_next)"]
    assert column_type(registry_database, "embedding_next") is None
    assert list(indexes(registry_database)) == ["ix_tools_embedding"]


async def test_prune_frees_columns_that_no_generation_owns(registry_database: str) -> None:
    execute(registry_database, "ALTER TABLE tools ADD embedding_next vector(3), ADD embedding_previous vector(4)")
    await prune(registry_database)
    assert column_type(registry_database, "embedding_next") is None
    assert column_type(registry_database, "embedding_previous") is None


class Operator:
    """Somebody at a terminal, who answers as told and remembers what was asked."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked: list[Outline] = []

    def consent(self, *, yes: bool = False) -> Consent:
        return Consent(yes=yes, ask=self.ask)

    def ask(self, outline: Outline) -> bool:
        self.asked.append(outline)
        return self.answer


async def test_losses_need_an_agreement(registry_database: str) -> None:
    fill(registry_database, 2)
    await migrate(registry_database, target(16), consent=Consent())  # nothing lost: nobody to ask, nothing to agree to
    before = catalogue_of(registry_database)
    with pytest.raises(NegativeAnswerError) as caught:
        await migrate(registry_database, target(4), consent=Consent())
    assert "2 vectors of 8 dimensions by test-model" in caught.value.message
    assert "--yes" in (caught.value.hint or "")
    refusing = Operator(answer=False)
    with pytest.raises(NegativeAnswerError, match="not agreed"):
        await migrate(registry_database, target(4), consent=refusing.consent())
    with pytest.raises(NegativeAnswerError, match="not agreed"):
        await prune(registry_database, consent=refusing.consent())
    assert len(refusing.asked) == 2
    assert catalogue_of(registry_database) == before
    agreeing = Operator(answer=True)
    await migrate(registry_database, target(4), consent=agreeing.consent())
    assert agreeing.asked[0].losses == ["2 vectors of 8 dimensions by test-model (column embedding_previous)"]
    assert column_type(registry_database) == "vector(4)"


async def test_setting_aside_asks_on_a_terminal(registry_database: str) -> None:
    fill(registry_database, 2)
    refusing = Operator(answer=False)
    with pytest.raises(NegativeAnswerError):
        await migrate(registry_database, target(16), consent=refusing.consent())
    assert refusing.asked[0].retires
    assert column_type(registry_database) == "vector(8)"
    await migrate(registry_database, target(16), consent=refusing.consent(yes=True))
    assert len(refusing.asked) == 1


async def test_registry_that_changed_while_the_question_was_open(registry_database: str) -> None:
    fill(registry_database, 2)
    await migrate(registry_database, target(16))

    def somebody_faster(outline: Outline) -> bool:
        fill(registry_database, 20, prefix="new")
        copied = "(SELECT embedding_previous FROM tools WHERE name = 'tool_0')"
        execute(registry_database, f"UPDATE tools SET embedding_previous = {copied}")
        return True

    with pytest.raises(StateError, match="has changed while the question was open"):
        await prune(registry_database, consent=Consent(ask=somebody_faster))
    assert column_type(registry_database, "embedding_previous") == "vector(8)"


async def test_tools_that_go_while_the_question_is_open_are_no_other_question(registry_database: str) -> None:
    fill(registry_database, 2)
    await migrate(registry_database, target(16))

    def agreeing_late(outline: Outline) -> bool:
        execute(registry_database, "DELETE FROM tools WHERE name = 'tool_0'")
        return True

    outline = await prune(registry_database, consent=Consent(ask=agreeing_late))
    assert outline.losses == ["1 vectors of 8 dimensions by test-model (column embedding_previous)"]
    assert column_type(registry_database, "embedding_previous") is None


async def test_a_failed_backup_stops_the_change(registry_database: str) -> None:
    async def failing() -> None:
        raise StateError("no room")

    before = catalogue_of(registry_database)
    async with opened(registry_database) as registry:
        with pytest.raises(StateError, match="no room"):
            await change(
                registry,
                lambda: registry.plan_migrate(target(16)),
                consent=Consent(yes=True),
                dry_run=False,
                progress=SilentProgress(),
                settings=load_settings(),
                backup=failing,
            )
    assert catalogue_of(registry_database) == before


VIEW = "CREATE VIEW neighbours AS SELECT name, embedding FROM tools"
MATERIALISED = "CREATE MATERIALIZED VIEW frozen AS SELECT name, embedding FROM tools"


async def test_dependents_are_named_and_refused(registry_database: str) -> None:
    execute(registry_database, f"{VIEW}; {MATERIALISED}; CREATE VIEW names AS SELECT id, name FROM tools")
    before = catalogue_of(registry_database)
    with pytest.raises(StateError) as caught:
        await migrate(registry_database, target(16))
    assert "view neighbours (column embedding)" in caught.value.message
    assert "materialised view frozen (column embedding)" in caught.value.message
    assert "names" not in caught.value.message
    assert "--force" in (caught.value.hint or "")
    assert catalogue_of(registry_database) == before
    assert len((await migrate(registry_database, target(16), dry_run=True)).dependents) == 2
    await migrate(registry_database, target(16), consent=FORCE)
    assert value(registry_database, "SELECT pg_get_viewdef('neighbours')").count("embedding_previous") == 1
    # The views read the former column now, and are in the way of dropping it, forced or not.
    with pytest.raises(StateError, match=r"view neighbours \(column embedding_previous\)"):
        await prune(registry_database)
    with pytest.raises(StateError, match="view neighbours depends on column embedding_previous"):
        await prune(registry_database, consent=FORCE)
    execute(registry_database, "DROP VIEW neighbours; DROP MATERIALIZED VIEW frozen")
    await prune(registry_database)


async def test_dependents_of_columns_that_stay_are_no_hindrance(registry_database: str) -> None:
    await migrate(registry_database, target(16))
    execute(registry_database, VIEW)
    assert (await prune(registry_database)).dependents == []


async def test_adoption_moves_no_column_of_a_view(alembic_database: str) -> None:
    execute(alembic_database, VIEW)
    outline = await migrate(alembic_database, target(1024))
    assert outline.dependents == []


async def test_plans_tell_what_they_lead_to(registry_database: str) -> None:
    """A plan's next state is computed, never read back: it has to agree with what the database then says."""
    fill(registry_database, 3)
    for planner in (
        lambda registry: registry.plan_migrate(target(16)),
        lambda registry: registry.plan_rollback(None),
        lambda registry: registry.plan_migrate(target(16)),
        lambda registry: registry.plan_prune(),
    ):
        async with opened(registry_database) as registry:
            simulated = (await planner(registry))._planned.steps[-1].plan.after
        await carry_out(registry_database, planner)
        async with opened(registry_database) as registry:
            found = await registry.state(count=True)
        assert dict(simulated.columns) == dict(found.columns)
        assert {k: v for k, v in simulated.vectors.items() if k in found.vectors} == dict(found.vectors)
