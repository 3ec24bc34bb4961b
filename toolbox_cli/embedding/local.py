"""The model bundled in the wordllama wheel, in this process: no service, no network, no torch.

Read without importing ``wordllama``: its import sets up root logging, and its ``load()`` looks for the
network. Source of the method: wordllama 0.4, ``inference.py`` (mean of the token vectors, no special tokens,
L2 norm).
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox_cli.domain.catalog import canonical_name
from toolbox_cli.domain.errors import ConfigurationError, InputRefusedError
from toolbox_cli.embedding.texts import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from toolbox_cli.domain.ports import Vectors

MODEL = "wordllama"
DIMENSIONS = (256, 128, 64)
#: Tokens of a text that count; the rest is left out, as embedding services do.
MAX_TOKENS = 8192
# The longest of the model's tokens has 16 characters: more characters than this cannot matter.
_MAX_CHARACTERS = MAX_TOKENS * 16
# Token vectors gathered at once: 16,384 × 256 × 4 bytes = 16 MiB, however long the texts of a batch are.
_CHUNK_TOKENS = 2 * MAX_TOKENS
_INSTALL_HINT = "pip install 'toolbox-cli[embedded]'"


class LocalEmbedder:
    """An ``Embedder`` without a service: 256 dimensions, or 128 or 64 by cutting and normalising again.

    Raises ConfigurationError for another dimension, for the name of another model, and where the wheel is
    missing. The model (32 MiB) is read at first use; the work runs in a thread.
    """

    max_batch = 256
    answered_base64 = None
    answered_out_of_order = False

    def __init__(
        self,
        *,
        model: str = MODEL,
        dimension: int | None = None,
        document_prefix: str = "",
        query_prefix: str = "",
    ) -> None:
        if canonical_name(model) != MODEL:
            raise ConfigurationError(
                f"the built-in model is {MODEL!r}, found EMBEDDING_MODEL {model!r}",
                hint=f"Set EMBEDDING_MODEL={MODEL}, or EMBEDDING_ENDPOINT_URL to a service that has {model}.",
            )
        if dimension is not None and dimension not in DIMENSIONS:
            raise ConfigurationError(
                f"the built-in model makes 256, 128 or 64 dimensions, found {dimension}",
                hint="Use 256, 128 or 64 (--dimension or EMBEDDING_DIMENSION), or an embedding service"
                " (EMBEDDING_ENDPOINT_URL).",
            )
        self._model = model
        self._dimension = dimension or DIMENSIONS[0]
        self._document_prefix = document_prefix
        self._query_prefix = query_prefix
        self._tokenizer_file, self._weights_file = _locate()
        self._loading = threading.Lock()
        self._loaded: tuple[Tokenizer, Vectors] | None = None

    @property
    def model(self) -> str:
        return self._model

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def setbacks(self) -> int:
        """A model in this process is never too busy: always 0."""
        return 0

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, of length 1. Raises InputRefusedError if any text is
        blank.
        """
        return await asyncio.to_thread(self._embed, [prepare(text, self._document_prefix) for text in texts])

    async def embed_query(self, text: str) -> Vectors:
        """Shape (dimension,), float32, of length 1. Raises InputRefusedError if the text is blank."""
        vectors = await asyncio.to_thread(self._embed, [prepare(text, self._query_prefix)])
        query: Vectors = vectors[0]
        return query

    async def probe(self) -> int:
        """The dimension, as ``HttpEmbedder.probe``; proves that the model can be read."""
        return int((await self.embed_query("toolbox")).shape[0])

    async def aclose(self) -> None:
        self._loaded = None

    def _embed(self, texts: list[str]) -> Vectors:
        import numpy as np

        tokenizer, weights = self._load()
        encoded = tokenizer.encode_batch_fast([text[:_MAX_CHARACTERS] for text in texts], add_special_tokens=False)
        ids = [encoding.ids[:MAX_TOKENS] for encoding in encoded]
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        start = 0
        while start < len(ids):
            stop, tokens = start, 0
            while stop < len(ids) and (stop == start or tokens + len(ids[stop]) <= _CHUNK_TOKENS):
                tokens += len(ids[stop])
                stop += 1
            vectors[start:stop] = _pool(ids[start:stop], weights)
            start = stop
        # The mean and the sum have one direction: the length is taken out here either way.
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise InputRefusedError("nothing to embed: the built-in model makes a zero vector of this text")
        vectors /= norms
        return vectors

    def _load(self) -> tuple[Tokenizer, Vectors]:
        with self._loading:
            if self._loaded is None:
                self._loaded = _read(self._tokenizer_file, self._weights_file, self._dimension)
            return self._loaded


def _pool(ids: list[list[int]], weights: Vectors) -> Vectors:
    """The sums of the token vectors, shape (len(ids), dimension)."""
    import numpy as np

    sizes = np.fromiter(map(len, ids), dtype=np.intp, count=len(ids))
    if not sizes.all():
        # reduceat gives an empty stretch the vector of the token after it.
        raise InputRefusedError("nothing to embed: the built-in model finds no token in the text")
    joined = np.concatenate([np.asarray(some, dtype=np.intp) for some in ids])
    np.clip(joined, 0, len(weights) - 1, out=joined)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    sums: Vectors = np.add.reduceat(weights[joined], starts, axis=0)
    return sums


def _locate() -> tuple[Path, Path]:
    """The tokenizer and weights files inside the installed package; raises ConfigurationError."""
    from importlib.util import find_spec

    spec = find_spec("wordllama")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise ConfigurationError("the built-in model is not installed", hint=_INSTALL_HINT)
    tokenizer = Path(folders[0]) / "tokenizers" / "l2_supercat_tokenizer_config.json"
    weights = Path(folders[0]) / "weights" / "l2_supercat_256.safetensors"
    for file in (tokenizer, weights):
        if not file.is_file():
            raise ConfigurationError(f"the built-in model is incomplete: {file} is missing", hint=_INSTALL_HINT)
    return tokenizer, weights


def _read(tokenizer_file: Path, weights_file: Path, dimension: int) -> tuple[Tokenizer, Vectors]:
    """The tokenizer, and the token vectors cut to ``dimension``: float32, shape (32,000, dimension).

    A cut of the vectors is a cut of their mean.
    """
    import numpy as np

    try:
        from safetensors import SafetensorError, safe_open
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise ConfigurationError(f"the built-in model needs a package: {exc}", hint=_INSTALL_HINT) from exc
    try:
        with safe_open(weights_file, framework="np") as file:
            half = file.get_tensor("embedding.weight")
    except (SafetensorError, OSError) as exc:
        raise ConfigurationError(
            f"the built-in model cannot be read: {weights_file}: {exc}", hint=_INSTALL_HINT
        ) from exc
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, np.ascontiguousarray(half[:, :dimension], dtype=np.float32)
