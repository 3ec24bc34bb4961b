"""What core needs of the outside, as protocols: core never sees psycopg, httpx or a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


#: Texts a request, where nothing else is known: every service that we know of takes 64 or says so.
DEFAULT_BATCH = 64


class Embedder(Protocol):
    """Turns texts into vectors of one embedding space; adds the space's prefixes itself.

    Vectors are float32, finite, non-zero, in the order of the texts, of exactly ``dimension`` columns:
    whatever the service answers that is not, raises and is never handed on.
    """

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def max_batch(self) -> int:
        """The largest number of texts worth handing over at once, as far as is known."""

    @property
    def setbacks(self) -> int:
        """How often the service was too busy so far (429, 503, time-outs), retries included: grows, never falls."""

    @property
    def answered_base64(self) -> bool | None:
        """Whether the last answer was in base64; None before the first, and for a model in this process."""

    @property
    def answered_out_of_order(self) -> bool:
        """Whether an answer had its items in another order than the texts, told apart by their indexes."""

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension).

        Raises InputRefusedError when the service refuses these texts (halve and try again), and
        EmbeddingServiceError when it cannot be used at all.
        """

    async def embed_query(self, text: str) -> Vectors:
        """Shape (dimension,). Raises as ``embed_documents``."""

    async def aclose(self) -> None: ...


class ServiceProbe(Protocol):
    """Embedders of one service, made as a probe needs them: None is what the generation has."""

    def __call__(
        self,
        *,
        model: str | None = None,
        dimension: int | None = None,
        send_dimensions: bool = False,
        max_batch: int | None = None,
    ) -> Embedder: ...


class Progress(Protocol):
    """Counts of a long run. Core emits them; only the command line owns the bar."""

    def start(self, label: str, total: int | None) -> None: ...

    def advance(self, count: int) -> None: ...

    def note(self, message: str) -> None: ...

    def finish(self) -> None: ...


class SilentProgress:
    """Progress that nobody watches."""

    def start(self, label: str, total: int | None) -> None:
        return

    def advance(self, count: int) -> None:
        return

    def note(self, message: str) -> None:
        return

    def finish(self) -> None:
        return
