"""Known models under all the names that servers give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolbox_cli.domain.catalog import KNOWN_MODELS, canonical_name, check_pair, find_model
from toolbox_cli.domain.errors import ConfigurationError
from toolbox_cli.domain.models import MAX_DIMENSION

SPELLINGS = {
    "nomic-embed-text-v1.5": [
        "text-embedding-nomic-embed-text-v1.5",  # LM Studio
        "text-embedding-nomic-embed-text-v1.5@q8_0",
        "nomic-embed-text",  # Ollama
        "nomic-embed-text:latest",
        "nomic-embed-text:v1.5",
        "nomic-ai/nomic-embed-text-v1.5",  # Hugging Face
        "nomic-ai/nomic-embed-text-v1.5-GGUF",
        "nomic-embed-text-v1.5.Q8_0.gguf",  # llama.cpp
        "nomic-embed-text-v1.5.f16.gguf",
        " Nomic-Embed-Text-V1.5 ",
    ],
    "nomic-embed-text-v1": ["nomic-ai/nomic-embed-text-v1", "nomic-embed-text:v1"],
    "all-MiniLM-L6-v2": [
        "sentence-transformers/all-MiniLM-L6-v2",
        "all-minilm",
        "all-minilm:latest",
        "all-minilm:22m",
        "text-embedding-all-minilm-l6-v2-embedding",
        "all-MiniLM-L6-v2-Q4_K_M.gguf",
    ],
    "bge-m3": ["BAAI/bge-m3", "bge-m3:567m", "text-embedding-bge-m3"],
    "bge-large-en-v1.5": ["bge-large", "BAAI/bge-large-en-v1.5", "bge-large:latest"],
    "mxbai-embed-large-v1": [
        "mixedbread-ai/mxbai-embed-large-v1",
        "mxbai-embed-large",
        "mxbai-embed-large:335m",
    ],
    "e5-base-v2": ["intfloat/e5-base-v2"],
    "multilingual-e5-large": ["intfloat/multilingual-e5-large", "text-embedding-multilingual-e5-large"],
    "snowflake-arctic-embed-l-v2.0": ["Snowflake/snowflake-arctic-embed-l-v2.0", "snowflake-arctic-embed2"],
    "embeddinggemma-300m": [
        "google/embeddinggemma-300m",
        "embeddinggemma:300m",
        "text-embedding-embeddinggemma-300m",
    ],
    "qwen3-embedding-0.6b": [
        "Qwen/Qwen3-Embedding-0.6B",
        "qwen3-embedding:0.6b",
        "text-embedding-qwen3-embedding-0.6b",
        "Qwen3-Embedding-0.6B-Q8_0.gguf",
    ],
    "qwen3-embedding-8b": ["Qwen/Qwen3-Embedding-8B", "qwen3-embedding:8b"],
    "text-embedding-3-small": ["openai/text-embedding-3-small", "text-embedding-3-small"],
    "text-embedding-ada-002": ["ada-002"],
    "wordllama": ["builtin", "l2_supercat_256", "WordLlama"],
}


@pytest.mark.parametrize(
    ("name", "spelling"),
    [(name, spelling) for name, spellings in SPELLINGS.items() for spelling in spellings],
)
def test_spellings(name: str, spelling: str) -> None:
    assert canonical_name(spelling) == name


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.name)
def test_every_entry_is_found_and_is_possible(model: object) -> None:
    assert model in KNOWN_MODELS
    known = find_model(getattr(model, "name", None))
    assert known is model
    assert known.allows(known.dimension)
    assert 0 < known.dimension <= MAX_DIMENSION
    for alias in known.aliases:
        assert find_model(alias) is known
    if known.matryoshka is not None:
        low, high = known.matryoshka
        assert low <= known.dimension <= high


@pytest.mark.parametrize("name", [None, "", "  ", "my-own-model", "nomic", "text-embedding-3", "bge-m4", "gpt-4o"])
def test_unknown_models(name: str | None) -> None:
    assert find_model(name) is None


def test_an_unknown_name_stays_as_it_is() -> None:
    assert canonical_name(" Acme/My-Model:v2 ") == "Acme/My-Model:v2"


@given(st.text(max_size=30))
def test_no_name_breaks_it_and_names_are_stable(name: str) -> None:
    assert canonical_name(canonical_name(name)) == canonical_name(name)


@pytest.mark.parametrize(
    ("model", "dimension"),
    [
        ("text-embedding-nomic-embed-text-v1.5", 768),
        ("nomic-embed-text", 64),
        ("text-embedding-3-small", 1),
        ("text-embedding-3-large", 3072),
        ("builtin", 256),
        ("builtin", 128),
        ("builtin", 64),
        ("nobody/knows", 1234),
    ],
)
def test_pairs_that_can_be(model: str, dimension: int) -> None:
    check_pair(model, dimension)


@pytest.mark.parametrize(
    ("model", "dimension", "own"),
    [
        ("text-embedding-nomic-embed-text-v1.5", 1536, 768),
        ("nomic-embed-text", 63, 768),
        ("text-embedding-ada-002", 512, 1536),
        ("all-minilm", 768, 384),
        ("builtin", 100, 256),
        ("builtin", 512, 256),
        ("text-embedding-3-small", 3072, 1536),
    ],
)
def test_pairs_that_cannot_be(model: str, dimension: int, own: int) -> None:
    with pytest.raises(ConfigurationError, match=f"found {dimension}") as caught:
        check_pair(model, dimension)
    assert model in caught.value.message
    assert f"Use {own}" in (caught.value.hint or "")
    assert caught.value.exit_code == 3
