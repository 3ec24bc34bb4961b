"""Which model and dimension a migration leads to, and which service makes a generation's vectors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from toolbox_cli.core.service import configured_service, service_of
from toolbox_cli.core.target import TargetOptions, resolve_target
from toolbox_cli.domain.catalog import canonical_name, check_pair
from toolbox_cli.domain.errors import ConfigurationError, EmbeddingServiceError, InvalidUsageError, StateError
from toolbox_cli.domain.models import Generation, Role, Target
from toolbox_cli.domain.settings import BUILTIN, DEFAULT_ENDPOINT_URL, DEFAULT_MODEL, Settings

ELSEWHERE = "http://10.0.0.7:8080/v1/embeddings"


class Service:
    """A probe: what the service answers, and what it was asked."""

    def __init__(self, dimension: int | None = None) -> None:
        self.dimension = dimension
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, model: str, endpoint_url: str) -> int:
        self.asked.append((model, endpoint_url))
        if self.dimension is None:
            raise EmbeddingServiceError("nobody there")
        return self.dimension


def settings(**values: Any) -> Settings:
    """Settings of exactly these values: the environment of a test is empty (``isolated_environment``)."""
    return Settings(**values)


def generation(model: str | None, dimension: int, **values: Any) -> Generation:
    given: dict[str, Any] = {
        "id": 1,
        "role": Role.CURRENT,
        "model": model,
        "canonical_model": canonical_name(model) if model else None,
        "dimension": dimension,
        "document_prefix": "",
        "query_prefix": "",
        "template_version": 1,
        "endpoint_url": DEFAULT_ENDPOINT_URL if model else None,
        "api_key_env": "EMBEDDING_API_KEY" if model else None,
        "index_method": "hnsw",
        "created_at": datetime.now(UTC),
        "activated_at": None,
        "rolled_back_at": None,
    }
    return Generation(**(given | values))


async def resolve(
    current: Generation | None = None,
    *,
    probe: Service | None = None,
    given: dict[str, Any] | None = None,
    **options: Any,
) -> Target:
    """``given`` are the settings, ``options`` what was typed."""
    return await resolve_target(TargetOptions(**options), settings(**(given or {})), current, probe or Service())


# The dimension: option, setting, the generation's when the model stays, the model's own, the service's, 1536.


async def test_option_before_setting() -> None:
    found = await resolve(dimension=256, given={"embedding_dimension": 512})
    assert found.space.dimension == 256


async def test_setting_before_the_generations_own() -> None:
    found = await resolve(generation(DEFAULT_MODEL, 768), given={"embedding_dimension": 512})
    assert (found.space.model, found.space.dimension) == (DEFAULT_MODEL, 512)


async def test_generations_own_before_the_models() -> None:
    probe = Service(99)
    found = await resolve(generation(DEFAULT_MODEL, 128), probe=probe)
    assert found.space.dimension == 128
    # Another spelling of the same model stays with it too.
    found = await resolve(generation(DEFAULT_MODEL, 128), model="nomic-embed-text", probe=probe)
    assert found.space.dimension == 128
    assert probe.asked == []


async def test_models_own_without_asking_the_service() -> None:
    probe = Service(99)
    assert (await resolve(model="bge-m3", probe=probe)).space.dimension == 1024
    assert (await resolve(generation("bge-m3", 1024), model="all-minilm", probe=probe)).space.dimension == 384
    assert probe.asked == []


async def test_service_is_asked_for_an_unknown_model() -> None:
    probe = Service(333)
    found = await resolve(model="house-model", endpoint_url=ELSEWHERE, probe=probe)
    assert found.space.dimension == 333
    assert probe.asked == [("house-model", ELSEWHERE)]


async def test_1536_when_nobody_knows() -> None:
    assert (await resolve(model="house-model", probe=Service(None))).space.dimension == 1536


async def test_given_dimension_asks_nobody() -> None:
    probe = Service(333)
    assert (await resolve(model="house-model", dimension=64, probe=probe)).space.dimension == 64
    assert probe.asked == []


# The model: option, setting, the registry's own, the default.


async def test_model_from_option_then_setting_then_registry_then_default() -> None:
    current = generation("bge-m3", 1024)
    given = {"embedding_model": "e5-base-v2"}
    assert (await resolve(current, model="all-mpnet-base-v2", given=given)).space.model == "all-mpnet-base-v2"
    assert (await resolve(current, given=given)).space.model == "e5-base-v2"
    assert (await resolve(current)).space.model == "bge-m3"
    assert (await resolve()).space.model == DEFAULT_MODEL
    assert (await resolve(model=" bge-m3 ")).space.model == "bge-m3"


async def test_vectors_of_unknown_origin_are_nobodys_model() -> None:
    """An adopted registry: the default model and its own dimension, whatever was found."""
    found = await resolve(generation(None, 1024))
    assert (found.space.model, found.space.dimension) == (DEFAULT_MODEL, 768)


async def test_registrys_model_that_cannot_make_the_dimension_gives_way() -> None:
    """Nobody named a model, and 768 was asked for of a registry of bge-m3: the default makes it."""
    found = await resolve(generation("bge-m3", 1024), dimension=768)
    assert (found.space.model, found.space.dimension) == (DEFAULT_MODEL, 768)
    # A model of which nothing is known may be able to.
    assert (await resolve(generation("house-model", 100), dimension=768)).space.model == "house-model"


# The endpoint: option, setting, the generation's own while the model is, the default.


async def test_endpoint() -> None:
    current = generation("bge-m3", 1024, endpoint_url=ELSEWHERE)
    other = "https://api.example.org/v1/embeddings"
    assert (await resolve(current)).endpoint_url == ELSEWHERE
    assert (await resolve(current, given={"embedding_endpoint_url": other})).endpoint_url == other
    assert (await resolve(current, endpoint_url=other)).endpoint_url == other
    assert (await resolve(current, model="bge-large")).endpoint_url == DEFAULT_ENDPOINT_URL
    assert (await resolve(current, given={"embedding_model": "bge-large"})).endpoint_url == DEFAULT_ENDPOINT_URL
    assert (await resolve()).endpoint_url == DEFAULT_ENDPOINT_URL


async def test_builtin_brings_its_model() -> None:
    found = await resolve(endpoint_url=BUILTIN)
    assert (found.space.model, found.space.dimension, found.endpoint_url) == ("wordllama", 256, BUILTIN)
    found = await resolve(given={"embedding_endpoint_url": "BUILTIN", "embedding_dimension": 64})
    assert (found.space.model, found.space.dimension) == ("wordllama", 64)
    # EMBEDDING_MODEL may be set for the ToolBox server; what is built in is one model.
    found = await resolve(given={"embedding_endpoint_url": BUILTIN, "embedding_model": "bge-m3"})
    assert found.space.model == "wordllama"
    assert (await resolve(generation("wordllama", 128, endpoint_url=BUILTIN))).space.dimension == 128


async def test_builtin_and_another_model_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="the built-in model is wordllama, found --model bge-m3"):
        await resolve(endpoint_url=BUILTIN, model="bge-m3")
    with pytest.raises(ConfigurationError, match="model 'wordllama' is built in") as caught:
        await resolve(model="wordllama")
    assert "builtin" in (caught.value.hint or "")


async def test_from_builtin_to_a_service() -> None:
    """Naming a service is enough to leave the built-in model: it is no service's."""
    found = await resolve(generation("wordllama", 256, endpoint_url=BUILTIN), endpoint_url=ELSEWHERE)
    assert (found.space.model, found.space.dimension) == (DEFAULT_MODEL, 768)


# Prefixes belong to the model, and stay with the generation.


async def test_prefixes_of_the_model_or_the_generation() -> None:
    fresh = (await resolve()).space
    assert (fresh.document_prefix, fresh.query_prefix) == ("search_document: ", "search_query: ")
    # Made before the catalogue knew the prefixes: fresh vectors must not turn stale by an upgrade of toolbox.
    kept = (await resolve(generation(DEFAULT_MODEL, 768, document_prefix="d: ", query_prefix="q: "))).space
    assert (kept.document_prefix, kept.query_prefix) == ("d: ", "q: ")
    unknown = (await resolve(model="house-model")).space
    assert (unknown.document_prefix, unknown.query_prefix) == ("", "")


async def test_index_method_is_handed_on() -> None:
    assert (await resolve()).index_method is None
    assert (await resolve(index_method="ivfflat")).index_method == "ivfflat"


# What cannot be.


@pytest.mark.parametrize("dimension", [-1, 0, 16_001, 99_999])
async def test_dimension_out_of_range(dimension: int) -> None:
    with pytest.raises(InvalidUsageError, match=f"--dimension is {dimension}, expected 1 to 16000") as caught:
        await resolve(dimension=dimension)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "dimension"),
    [("text-embedding-nomic-embed-text-v1.5", 1536), ("nomic-embed-text", 32), ("bge-m3", 768), ("ada-002", 1024)],
)
async def test_pairs_that_cannot_be(model: str, dimension: int) -> None:
    for attempt in (
        lambda: resolve(model=model, dimension=dimension),
        lambda: resolve(given={"embedding_model": model, "embedding_dimension": dimension}),
        lambda: resolve(generation("house-model", 9), model=model, dimension=dimension),
    ):
        with pytest.raises(ConfigurationError, match=f"dimensions, found {dimension}") as caught:
            await attempt()
        assert caught.value.exit_code == 3
        assert "--dimension" in (caught.value.hint or "")


async def test_default_model_at_1536_cannot_be() -> None:
    """The very case of the guide: the configuration says 1536, the model makes 768."""
    with pytest.raises(ConfigurationError, match="makes 64–768 dimensions, found 1536"):
        await resolve(given={"embedding_dimension": 1536})


@pytest.mark.parametrize(("model", "dimension"), [("house-model", 7), ("bge-m3", 1024), ("nomic-embed-text", 100)])
def test_pairs_that_can_be(model: str, dimension: int) -> None:
    check_pair(model, dimension)


@pytest.mark.parametrize(
    "url", ["localhost:1234", "ftp://h/v1", "http://", "http://h:port/v1", "", "http://u:p4ss@h/v1"]
)
async def test_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(InvalidUsageError, match="--endpoint-url") as caught:
        await resolve(endpoint_url=url)
    assert "p4ss" not in caught.value.message


async def test_empty_model() -> None:
    with pytest.raises(InvalidUsageError, match="--model is empty"):
        await resolve(model="  ")


# Which service makes a generation's vectors.


def test_generations_own_service_is_used() -> None:
    found = service_of(generation("bge-m3", 1024, endpoint_url=ELSEWHERE, query_prefix="q: "), settings())
    assert (found.model, found.endpoint_url, found.query_prefix, found.note) == ("bge-m3", ELSEWHERE, "q: ", None)


def test_another_address_or_spelling_of_the_same_model_is_followed() -> None:
    given = settings(embedding_model="BAAI/bge-m3", embedding_endpoint_url=ELSEWHERE)
    found = service_of(generation("bge-m3", 1024), given)
    assert (found.model, found.endpoint_url, found.note) == ("BAAI/bge-m3", ELSEWHERE, None)


def test_an_address_alone_may_be_another_models_and_is_not_followed() -> None:
    found = service_of(generation("bge-m3", 1024), settings(embedding_endpoint_url=ELSEWHERE))
    assert (found.model, found.endpoint_url) == ("bge-m3", DEFAULT_ENDPOINT_URL)
    assert "set EMBEDDING_MODEL=bge-m3 too" in (found.note or "")
    # The default model is what settings without a model mean.
    found = service_of(generation("nomic-embed-text-v1.5", 768), settings(embedding_endpoint_url=ELSEWHERE))
    assert (found.endpoint_url, found.note) == (ELSEWHERE, None)


@pytest.mark.parametrize("role", [Role.BUILDING, Role.PREVIOUS])
def test_settings_speak_of_the_current_generation_alone(role: Role) -> None:
    given = settings(embedding_model="BAAI/bge-m3", embedding_endpoint_url=ELSEWHERE)
    found = service_of(generation("bge-m3", 1024).model_copy(update={"role": role}), given)
    assert (found.model, found.endpoint_url, found.note) == ("bge-m3", DEFAULT_ENDPOINT_URL, None)


def test_another_model_is_not_followed_and_said_so() -> None:
    given = settings(embedding_model="e5-base-v2", embedding_endpoint_url=ELSEWHERE)
    found = service_of(generation("bge-m3", 1024), given)
    assert (found.model, found.endpoint_url) == ("bge-m3", DEFAULT_ENDPOINT_URL)
    assert "EMBEDDING_MODEL is e5-base-v2" in (found.note or "")


def test_builtin_vectors_are_made_by_the_builtin_model() -> None:
    found = service_of(generation("wordllama", 256, endpoint_url=BUILTIN), settings(embedding_endpoint_url=ELSEWHERE))
    assert (found.model, found.endpoint_url) == ("wordllama", BUILTIN)


def test_vectors_of_unknown_origin() -> None:
    found = service_of(generation(None, 1024), settings(embedding_model="bge-m3"))
    assert found.model == "bge-m3"
    assert "nothing says which model" in (found.note or "")
    with pytest.raises(StateError, match="nothing says which model made the 1024 dimensions"):
        service_of(generation(None, 1024), settings())


def test_configured_service() -> None:
    assert configured_service(settings()).model == DEFAULT_MODEL
    assert configured_service(settings()).document_prefix == "search_document: "
    assert configured_service(settings(embedding_endpoint_url=BUILTIN)).model == "wordllama"
