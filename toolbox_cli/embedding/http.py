"""The client of OpenAI-compatible embedding services.

Source of the shape: OpenAI API reference, "Create embeddings". What other services do differently is in
``faults`` (error answers), ``answers`` (answers) and ``retry_after`` (waits).
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from httpcore._async.http11 import AsyncHTTP11Connection

from toolbox_cli import __version__
from toolbox_cli.domain.errors import ConfigurationError, EmbeddingServiceError
from toolbox_cli.domain.ports import DEFAULT_BATCH
from toolbox_cli.embedding.answers import decode, parse_json
from toolbox_cli.embedding.faults import (
    URL_HINT,
    EncodingRefusedError,
    ErrorAnswer,
    ThrottledError,
    TimedOutError,
    TooManyInputsError,
    UndecodableAnswerError,
    UnreachableError,
    classify,
    clean,
    html_error,
    looks_like_html,
    shown_url,
)
from toolbox_cli.embedding.retry import persist
from toolbox_cli.embedding.texts import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from toolbox_cli.domain.ports import Vectors

# httpcore hands a body on in pieces of 64 kB, and each costs 0.1 ms on its way through four layers; an answer with 64
# vectors has 270 kB. (httpcore 1.0.9 has no setting for it; where the name is gone, nothing is changed.)
AsyncHTTP11Connection.READ_NUM_BYTES = 1 << 20

#: The most that ``reindex --concurrency`` takes.
_CONNECTIONS = 256
# Below the 5 seconds after which uvicorn and Node close an idle connection: a request must not meet the
# closing.
_KEEP_ALIVE_SECONDS = 4.0
_DOWN_HINT = f"Is the service running? {URL_HINT}"


class HttpEmbedder:
    """An ``Embedder`` over HTTP. One instance per service and run: it keeps connections and what it has
    learned.

    ``dimension`` None accepts whatever the service makes and holds it to the first answer.
    ``request_timeout`` (s) covers one request from connecting to the last byte; ``retry_timeout`` (s) is the
    time after which no further retry of a batch begins. ``throttled`` and ``timed_out`` count such answers
    over the life of the instance, for whoever steers the concurrency.
    """

    def __init__(
        self,
        *,
        endpoint_url: str,
        model: str,
        dimension: int | None,
        document_prefix: str = "",
        query_prefix: str = "",
        api_key: str | None = None,
        send_dimensions: bool = False,
        request_timeout: float = 60.0,
        retry_timeout: float = 30.0,
        max_batch: int = DEFAULT_BATCH,
    ) -> None:
        key = (api_key or "").strip()
        if not all("!" <= c <= "~" for c in key):
            raise ConfigurationError(
                "the embedding service's key holds characters that no HTTP header can carry",
                hint="Set EMBEDDING_API_KEY again: printable ASCII, no spaces or line breaks.",
            )
        self._url = endpoint_url
        self._shown = shown_url(endpoint_url)
        self._model = model
        self._dimension = dimension
        self._document_prefix = document_prefix
        self._query_prefix = query_prefix
        self._key = key or None
        self._send_dimensions = send_dimensions and dimension is not None
        self._request_timeout = request_timeout
        self._retry_timeout = retry_timeout
        self._max_batch = max(1, max_batch)
        # The largest request that was ever accepted: what is proven is not unlearned because of one bad text.
        self._proven_batch = 0
        self._base64 = True
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._tls: ssl.SSLContext | None = None
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self.throttled = 0
        self.timed_out = 0
        self.answered_base64: bool | None = None
        self.answered_out_of_order = False

    @property
    def model(self) -> str:
        return self._model

    @property
    def dimension(self) -> int:
        """Raises RuntimeError while nobody knows: no dimension was given and the service has not answered
        yet.
        """
        if self._dimension is None:
            raise RuntimeError("the dimension is not known before the first answer: call probe()")
        return self._dimension

    @property
    def max_batch(self) -> int:
        """The number of texts sent in one request: the limit as far as the service has taught it."""
        return self._max_batch

    @property
    def setbacks(self) -> int:
        """Answers so far that asked for less: 429, 503 and time-outs, those that a retry mended included."""
        return self.throttled + self.timed_out

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32. More than ``max_batch`` texts go in several requests, one
        by one.

        A request refused for its *number* of texts is sent again in smaller ones, and the limit is kept.
        Raises InputRefusedError when the service refuses these texts for another reason (halve and try again;
        one blank text refuses all), ServiceFailedError among them; EmbeddingServiceError when it cannot be
        used at all: PassingFaultError (ThrottledError, TimedOutError, UnreachableError) when only time was
        short.
        """
        ready = [prepare(text, self._document_prefix) for text in texts]
        parts: list[Vectors] = []
        start = 0
        while start < len(ready):
            chunk = ready[start : start + self._max_batch]
            try:
                parts.append(await self._embed(chunk, self._dimension))
            except TooManyInputsError:
                if len(chunk) <= self._max_batch:
                    raise
                continue
            start += len(chunk)
        if not parts:
            return np.empty((0, self._dimension or 0), dtype=np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def embed_query(self, text: str) -> Vectors:
        """Shape (dimension,), float32. Raises as ``embed_documents``."""
        vectors = await self._embed([prepare(text, self._query_prefix)], self._dimension)
        query: Vectors = vectors[0]
        return query

    async def probe(self) -> int:
        """The dimension that the service makes now, whatever was expected. Raises as ``embed_documents``."""
        vectors = await self._embed([prepare("toolbox", self._document_prefix)], None)
        return int(vectors.shape[1])

    async def aclose(self) -> None:
        self._idle.clear()
        while self._clients:
            await self._clients.pop().aclose()

    async def _embed(self, texts: list[str], dimension: int | None) -> Vectors:
        """One batch with its retries; learns from the outcome."""
        try:
            vectors = await persist(lambda: self._attempt(texts, dimension), retry_timeout=self._retry_timeout)
        except TooManyInputsError:
            if len(texts) > max(1, self._proven_batch):
                self._max_batch = min(self._max_batch, max(len(texts) // 2, self._proven_batch, 1))
            raise
        self._proven_batch = max(self._proven_batch, len(texts))
        if self._dimension is None:
            self._dimension = int(vectors.shape[1])
        return vectors

    async def _attempt(self, texts: list[str], dimension: int | None) -> Vectors:
        if self._base64:
            try:
                return await self._ask(texts, dimension, base64=True)
            except (EncodingRefusedError, UndecodableAnswerError):
                vectors = await self._ask(texts, dimension, base64=False)
            # Only now is it known that base64 was to blame.
            self._base64 = False
            return vectors
        return await self._ask(texts, dimension, base64=False)

    async def _ask(self, texts: list[str], dimension: int | None, *, base64: bool) -> Vectors:
        """One request. Raises what its answer means."""
        request: dict[str, Any] = {"model": self._model, "input": texts}
        if base64:
            # Floats are the default of every service; some refuse the field itself.
            request["encoding_format"] = "base64"
        if self._send_dimensions:
            request["dimensions"] = self._dimension
        response = await self._post(json.dumps(request, ensure_ascii=False).encode())
        body = response.content
        try:
            payload = parse_json(body)
        except ValueError:
            payload = None
        refusal = isinstance(payload, dict) and "error" in payload and "data" not in payload
        if response.status_code == 200 and not refusal:
            return self._read(payload, body, len(texts), dimension)
        fault = classify(
            ErrorAnswer(
                status=response.status_code,
                headers=response.headers,
                payload=payload,
                body=body,
                url=self._shown,
                secret=self._key,
                asked_base64=base64,
                asked_dimension=self._dimension if self._send_dimensions else None,
            )
        )
        if isinstance(fault, ThrottledError):
            self.throttled += 1
        raise fault

    def _read(self, payload: Any, body: bytes, count: int, dimension: int | None) -> Vectors:
        if payload is None:
            if looks_like_html(body):
                raise html_error(self._shown)
            raise EmbeddingServiceError(
                f"{self._shown} answered something that is not JSON: {clean(repr(body[:80]), self._key)}",
                hint=URL_HINT,
            )
        answer = decode(payload, count=count, dimension=dimension)
        self.answered_base64 = answer.base64
        self.answered_out_of_order = self.answered_out_of_order or answer.reordered
        return answer.vectors

    async def _post(self, content: bytes) -> httpx.Response:
        """One HTTP exchange, body read; raises EmbeddingServiceError where there is no answer."""
        try:
            async with self._slots, asyncio.timeout(self._request_timeout):
                client = self._idle.pop() if self._idle else self._new_client()
                try:
                    return await client.post(self._url, content=content)
                finally:
                    self._idle.append(client)
        except TimeoutError as exc:
            self.timed_out += 1
            raise TimedOutError(
                f"the embedding service at {self._shown} did not answer within {self._request_timeout:g} s",
                hint="Give it more time (TOOLBOX_REQUEST_TIMEOUT, in seconds) or fewer texts (--batch-size).",
            ) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise ConfigurationError(f"{self._shown} is no URL that can be requested: {exc}", hint=URL_HINT) from exc
        except httpx.DecodingError as exc:
            raise UndecodableAnswerError(f"{self._shown} answered a body whose compression is broken: {exc}") from exc
        except httpx.TransportError as exc:
            raise self._no_connection(exc) from exc

    def _new_client(self) -> httpx.AsyncClient:
        """A client of one connection, made inside the event loop that will run it.

        One client for all would do, but httpcore's pool walks every connection for every connection at each
        request: with 64 in flight that took 7 ms of CPU a request (httpcore 1.0.9, connection_pool.py,
        ``_assign_requests_to_connections``).
        """
        if self._tls is None:
            # Reading the certificate authorities takes 30 ms, which plain HTTP has no use for.
            self._tls = (
                httpx.create_ssl_context()
                if self._url.lower().startswith("https")
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        headers = {"content-type": "application/json", "user-agent": f"toolbox-cli/{__version__}"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        client = httpx.AsyncClient(
            headers=headers,
            verify=self._tls,
            # asyncio.timeout bounds the whole exchange; httpx's own bounds each read alone.
            timeout=httpx.Timeout(None),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEP_ALIVE_SECONDS),
        )
        self._clients.append(client)
        return client

    def _no_connection(self, exc: httpx.TransportError) -> EmbeddingServiceError:
        causes = list(_causes(exc))
        reached = self._proven_batch > 0
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return EmbeddingServiceError(
                f"no TLS connection to the embedding service at {self._shown}: {clean(str(exc), self._key)}",
                hint="Is it http, not https? A private certificate authority is named by SSL_CERT_FILE.",
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            why = "the host name is not known"
        elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            why = "connection refused"
        else:
            why = clean(str(exc), self._key) or type(exc).__name__
        if isinstance(exc, httpx.ConnectError | httpx.ProxyError):
            # A service that has answered before may be restarting; one that never has is most likely not
            # there, and whoever typed the command is waiting.
            return UnreachableError(
                f"cannot reach the embedding service at {self._shown}: {why}",
                hint=_DOWN_HINT,
                most_attempts=8 if reached else 2,
            )
        return UnreachableError(
            f"the connection to the embedding service at {self._shown} broke: {why}",
            hint="Look at the service's own log, then run this again.",
        )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and the members of groups among them."""
    pending: list[BaseException | None] = [exc]
    while pending:
        if (current := pending.pop()) is None:
            continue
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.append(current.__cause__ or current.__context__)
