"""Known embedding models: dimension, Matryoshka range, prefixes, input limit.

Figures are those of the models' own cards and of the providers' API references. ``max_tokens`` is the longest
input in the model's own tokens. ``matryoshka`` is the range of dimensions that the model was trained to be cut to;
where ``dimensions_parameter`` is true the provider's API takes ``dimensions`` for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypedDict

from toolbox_cli.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a model. Dimensions count components, ``max_tokens`` counts the model's own tokens."""

    name: str
    dimension: int
    max_tokens: int
    matryoshka: tuple[int, int] | None = None
    #: Dimensions that are possible; all of the Matryoshka range unless given.
    only: tuple[int, ...] | None = None
    dimensions_parameter: bool = False
    document_prefix: str = ""
    query_prefix: str = ""
    normalises: bool = True
    aliases: tuple[str, ...] = ()

    def allows(self, dimension: int) -> bool:
        """Whether the model can make vectors of this dimension."""
        if dimension == self.dimension:
            return True
        if self.only is not None:
            return dimension in self.only
        return self.matryoshka is not None and self.matryoshka[0] <= dimension <= self.matryoshka[1]

    @property
    def dimensions_text(self) -> str:
        """The possible dimensions in words, for tables and messages."""
        if self.only is not None:
            return ", ".join(str(d) for d in sorted({*self.only, self.dimension}, reverse=True))
        if self.matryoshka is not None:
            return f"{self.matryoshka[0]}–{self.matryoshka[1]}"
        return str(self.dimension)


class _Prefixes(TypedDict):
    document_prefix: str
    query_prefix: str


_BGE_QUERY = "Represent this sentence for searching relevant passages: "
_QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_NOMIC: _Prefixes = {"document_prefix": "search_document: ", "query_prefix": "search_query: "}
_E5: _Prefixes = {"document_prefix": "passage: ", "query_prefix": "query: "}
_GEMMA: _Prefixes = {
    "document_prefix": "title: none | text: ",
    "query_prefix": "task: search result | query: ",
}

#: Every entry's source is the model card or API reference of its maker, as of 2026-11.
KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel("text-embedding-ada-002", 1536, 8191, aliases=("ada-002",)),
    KnownModel("text-embedding-3-small", 1536, 8191, matryoshka=(1, 1536), dimensions_parameter=True),
    KnownModel("text-embedding-3-large", 3072, 8191, matryoshka=(1, 3072), dimensions_parameter=True),
    KnownModel("nomic-embed-text-v1", 768, 8192, **_NOMIC),
    KnownModel(
        "nomic-embed-text-v1.5",
        768,
        8192,
        matryoshka=(64, 768),
        dimensions_parameter=True,
        aliases=("nomic-embed-text", "nomic-embed-text-v1-5"),
        **_NOMIC,
    ),
    KnownModel(
        "all-MiniLM-L6-v2",
        384,
        256,
        aliases=("all-minilm", "all-minilm-l6", "all-minilm-22m", "minilm-l6-v2"),
    ),
    KnownModel("all-mpnet-base-v2", 768, 384),
    KnownModel("bge-small-en-v1.5", 384, 512, query_prefix=_BGE_QUERY, aliases=("bge-small", "bge-small-en")),
    KnownModel("bge-base-en-v1.5", 768, 512, query_prefix=_BGE_QUERY, aliases=("bge-base", "bge-base-en")),
    KnownModel("bge-large-en-v1.5", 1024, 512, query_prefix=_BGE_QUERY, aliases=("bge-large", "bge-large-en")),
    KnownModel("bge-m3", 1024, 8192, aliases=("bge-m3-567m",)),
    KnownModel("e5-small-v2", 384, 512, aliases=("e5-small",), **_E5),
    KnownModel("e5-base-v2", 768, 512, aliases=("e5-base",), **_E5),
    KnownModel("e5-large-v2", 1024, 512, aliases=("e5-large",), **_E5),
    KnownModel("multilingual-e5-small", 384, 512, **_E5),
    KnownModel("multilingual-e5-base", 768, 512, **_E5),
    KnownModel("multilingual-e5-large", 1024, 512, **_E5),
    KnownModel(
        "multilingual-e5-large-instruct",
        1024,
        512,
        query_prefix="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    ),
    KnownModel(
        "mxbai-embed-large-v1",
        1024,
        512,
        matryoshka=(64, 1024),
        dimensions_parameter=True,
        query_prefix=_BGE_QUERY,
        aliases=("mxbai-embed-large", "mxbai-embed-large-335m"),
    ),
    KnownModel(
        "snowflake-arctic-embed-xs",
        384,
        512,
        query_prefix=_BGE_QUERY,
        aliases=("snowflake-arctic-embed-22m",),
    ),
    KnownModel("snowflake-arctic-embed-s", 384, 512, query_prefix=_BGE_QUERY, aliases=("snowflake-arctic-embed-33m",)),
    KnownModel(
        "snowflake-arctic-embed-m",
        768,
        512,
        query_prefix=_BGE_QUERY,
        aliases=("snowflake-arctic-embed-110m",),
    ),
    KnownModel(
        "snowflake-arctic-embed-l",
        1024,
        512,
        query_prefix=_BGE_QUERY,
        aliases=("snowflake-arctic-embed", "snowflake-arctic-embed-335m"),
    ),
    KnownModel(
        "snowflake-arctic-embed-l-v2.0",
        1024,
        8192,
        matryoshka=(256, 1024),
        dimensions_parameter=True,
        query_prefix="query: ",
        aliases=("snowflake-arctic-embed2", "snowflake-arctic-embed2-568m", "snowflake-arctic-embed-l-v2"),
    ),
    KnownModel(
        "snowflake-arctic-embed-m-v2.0",
        768,
        8192,
        matryoshka=(256, 768),
        dimensions_parameter=True,
        query_prefix="query: ",
        aliases=("snowflake-arctic-embed-m-v2",),
    ),
    KnownModel(
        "embeddinggemma-300m",
        768,
        2048,
        matryoshka=(128, 768),
        dimensions_parameter=True,
        aliases=("embeddinggemma", "embedding-gemma-300m", "embeddinggemma-300m-qat"),
        **_GEMMA,
    ),
    KnownModel(
        "qwen3-embedding-0.6b",
        1024,
        32768,
        matryoshka=(32, 1024),
        dimensions_parameter=True,
        query_prefix=_QWEN_QUERY,
        aliases=("qwen3-embedding", "qwen3-embedding-0-6b"),
    ),
    KnownModel(
        "qwen3-embedding-4b",
        2560,
        32768,
        matryoshka=(32, 2560),
        dimensions_parameter=True,
        query_prefix=_QWEN_QUERY,
    ),
    KnownModel(
        "qwen3-embedding-8b",
        4096,
        32768,
        matryoshka=(32, 4096),
        dimensions_parameter=True,
        query_prefix=_QWEN_QUERY,
    ),
    KnownModel(
        "wordllama",
        256,
        8192,
        matryoshka=(64, 256),
        only=(128, 64),
        aliases=("builtin", "l2-supercat", "l2_supercat_256", "wordllama-l2-supercat-256"),
    ),
)

_QUANTISATION = re.compile(r"[-.@_](?:i?q\d[\w]*|bf16|f16|fp16|f32|fp32|int8|uint8|mlx|onnx|4bit|8bit|6bit)$")


def _plain(name: str) -> str:
    """Reduce the spellings of one model to one: organisation, quantisation, tags and server prefixes go."""
    text = name.strip().lower().rsplit("/", 1)[-1]
    text = text.removesuffix(":latest").removesuffix(".gguf").replace(":", "-")
    while (shorter := _QUANTISATION.sub("", text).removesuffix("-gguf").removesuffix(".gguf")) != text:
        text = shorter
    return text.replace("_", "-")


_BY_NAME: dict[str, KnownModel] = {
    _plain(spelling): model for model in KNOWN_MODELS for spelling in (model.name, *model.aliases)
}


def find_model(name: str | None) -> KnownModel | None:
    """The catalogue's entry for any usual spelling of a model's name, or None for a model that is not known.

    LM Studio prefixes ``text-embedding-`` (and appends ``-embedding`` to some), Ollama writes ``name:tag``, hubs
    write ``organisation/name``, files end in ``.Q8_0.gguf``.
    """
    if not name:
        return None
    plain = _plain(name)
    stripped = plain.removeprefix("text-embedding-")
    for candidate in (plain, stripped, stripped.removesuffix("-embedding")):
        if candidate in _BY_NAME:
            return _BY_NAME[candidate]
    return None


def canonical_name(name: str) -> str:
    """One name per embedding space: the catalogue's where the model is known, else the name as given."""
    known = find_model(name)
    return known.name if known else name.strip()


def check_pair(model: str, dimension: int, source: str = "") -> None:
    """Raise ConfigurationError when the model is known and cannot make this dimension, which came from ``source``."""
    known = find_model(model)
    if known is None or known.allows(dimension):
        return
    found = f"{dimension} ({source})" if source else str(dimension)
    raise ConfigurationError(
        f"model {model!r} makes {known.dimensions_text} dimensions, found {found}",
        hint=f"Use {known.dimension} (--dimension or EMBEDDING_DIMENSION), or name the model that makes {dimension}"
        " (--model or EMBEDDING_MODEL). `toolbox models` lists what is known.",
    )
