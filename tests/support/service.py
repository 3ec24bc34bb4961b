"""A real embedding service on loopback, with the faults of real ones.

In a test::

    with EmbeddingService(Behaviour(dimension=64)) as service:
        HttpEmbedder(endpoint_url=service.url, ...)

As a process of its own: ``python tests/support/service.py --port 0 --dimension 768``; the first line of its
output is the port. ``GET /stats`` answers the counters, ``POST /behaviour`` (JSON) sets fields of the
behaviour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pybase64

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.behaviour import Behaviour, Counters, Fault, Shape
from support.vectors import numbers_of, vectors_of

__all__ = ["Behaviour", "Counters", "EmbeddingService", "Fault", "error_answer", "vectors_of"]


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


def error_answer(status: int, message: str, shape: Shape, code: str | None = None, echo: Any = None) -> Answer:
    """An error in one of the shapes that services use; ``echo`` is repeated in ``detail_list``, as infinity
    does.
    """
    if shape == "text":
        return Answer(status, message.encode(), content_type="text/plain")
    if shape == "html":
        page = f"<!DOCTYPE html>\n<html><head><title>{status}</title></head><body>{message}</body></html>"
        return Answer(status, page.encode(), content_type="text/html")
    bodies: dict[str, dict[str, Any]] = {
        "openai": {"error": {"message": message, "type": "invalid_request_error", "code": code}},
        "string": {"error": message},
        "flat": {"message": message, "code": code or status, "type": "BadRequestError"},
        "detail": {"detail": message},
        "detail_list": {"detail": [{"type": "x", "loc": ["body", "input"], "msg": message, "input": echo}]},
    }
    return Answer(status, json.dumps(bodies[shape]).encode())


class EmbeddingService:
    """The service in a thread; a context manager. ``stats`` may be read and ``behaviour`` changed at any
    time.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.stats = Counters()
        self.port = port
        self._busy_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/embeddings"

    def __enter__(self) -> EmbeddingService:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the embedding service did not start within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection; ``__enter__`` may be called again and takes the same port."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._ready.clear()
            self._loop = None

    async def serve(self, started: Callable[[int], None] | None = None) -> None:
        """Answer until ``stop``; ``started`` gets the port once it listens."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.stats.connections += 1
            try:
                await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", self.port, limit=1 << 20, backlog=256)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        if started is not None:
            started(self.port)
        await self._stop.wait()
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks), timeout=2)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            first = await reader.readexactly(1)
            if not first.isalpha():
                # A TLS greeting: answered as web servers do, in plain HTTP.
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                return
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.split("\r\n")
            method, target, _ = request.split(" ", 2)
            headers = {
                name.strip().lower(): value.strip()
                for name, colon, value in (line.partition(":") for line in lines)
                if colon
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            path = target.partition("?")[0]
            if method == "POST" and path == "/v1/embeddings":
                answer = await self._counted(headers, body)
            else:
                answer = self._other(method, path, body)
            if answer is None:
                return
            reason = _REASONS.get(answer.status, "Status")
            more = "".join([f"{name}: {value}\r\n" for name, value in answer.headers.items()])
            writer.write(
                f"HTTP/1.1 {answer.status} {reason}\r\ncontent-type: {answer.content_type}\r\n"
                f"content-length: {len(answer.body)}\r\n{more}\r\n".encode("latin-1")
            )
            writer.write(answer.body)
            await writer.drain()

    def _other(self, method: str, path: str, body: bytes) -> Answer:
        if method == "GET" and path == "/stats":
            return Answer(200, json.dumps(self.stats.as_dict()).encode())
        if method == "POST" and path == "/behaviour":
            for name, value in json.loads(body).items():
                if name == "faults":
                    value = [Fault(**fault) for fault in value]
                setattr(self.behaviour, name, value)
            return Answer(200, b"{}")
        return error_answer(404, "Not Found", "html" if path == "/" else "detail")

    async def _counted(self, headers: dict[str, str], body: bytes) -> Answer | None:
        stats = self.stats
        stats.requests += 1
        stats.in_flight += 1
        stats.max_concurrency = max(stats.max_concurrency, stats.in_flight)
        try:
            answer = await self._embeddings(headers, body)
        finally:
            stats.in_flight -= 1
        if answer is None or answer.status != 200:
            stats.refused += 1
        return answer

    async def _embeddings(self, headers: dict[str, str], body: bytes) -> Answer | None:
        do = self.behaviour
        request: dict[str, Any] = json.loads(body)
        texts: list[str] = request["input"] if isinstance(request["input"], list) else [request["input"]]
        self.stats.inputs += len(texts)
        self.stats.largest_batch = max(self.stats.largest_batch, len(texts))
        if do.record:
            self.stats.texts.update(texts)
            self.stats.headers.append(headers)
            self.stats.bodies.append({k: v for k, v in request.items() if k != "input"})
        if do.faults:
            fault = do.faults[0]
            fault.times -= 1
            if fault.times <= 0:
                do.faults.pop(0)
            return _canned(fault)
        if refusal := self._refusal(request, texts, headers):
            return refusal
        await self._work(len(texts))
        answer = do.answer_body
        if answer is not None:
            return Answer(200, answer.encode(), content_type=do.answer_type)
        self.stats.embedded += len(texts)
        return Answer(200, self._vectors(request, [text[: do.read_chars] for text in texts]))

    def _refusal(self, request: dict[str, Any], texts: list[str], headers: dict[str, str]) -> Answer | None:
        do = self.behaviour
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if do.api_key is not None and given != do.api_key:
            echo = f": {given}" if do.echo_key else ""
            return error_answer(401, f"Incorrect API key provided{echo}", do.error_shape, "invalid_api_key")
        if do.model is not None and request["model"] != do.model:
            message = f"The model `{request['model']}` does not exist"
            return error_answer(404, message, do.error_shape, "model_not_found")
        if do.max_in_flight is not None and self.stats.in_flight > do.max_in_flight:
            return error_answer(429, "too many requests", do.error_shape, "rate_limit_exceeded")
        if do.base64 == "refused" and "encoding_format" in request:
            return error_answer(400, "Unknown field: encoding_format", do.error_shape)
        if do.dimensions == "refuse" and "dimensions" in request:
            return error_answer(400, "Model does not support matryoshka representation", do.error_shape)
        if do.batch_limit is not None and len(texts) > do.batch_limit:
            message = do.batch_limit_message.format(n=len(texts), limit=do.batch_limit)
            return error_answer(do.batch_limit_status, message, do.error_shape, echo=texts)
        longest = max(map(len, texts), default=0)
        if do.max_chars is not None and longest > do.max_chars:
            message = do.max_chars_message.format(n=longest, limit=do.max_chars)
            return error_answer(do.max_chars_status, message, do.error_shape, echo=texts)
        for word, status in do.refuse.items():
            if any(word in text for text in texts):
                return error_answer(status, do.refuse_message, do.error_shape, echo=texts)
        return None

    async def _work(self, count: int) -> None:
        do = self.behaviour
        seconds = do.latency + do.latency_per_input * count
        if do.capacity is not None:
            now = time.monotonic()
            self._busy_until = max(now, self._busy_until) + count / do.capacity
            seconds += self._busy_until - now
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _vectors(self, request: dict[str, Any], texts: list[str]) -> bytes:
        do = self.behaviour
        base64 = do.base64 in ("always", "garbage") or (
            do.base64 == "yes" and request.get("encoding_format") == "base64"
        )
        if do.base64 == "garbage" and "encoding_format" not in request:
            base64 = False
        dimension = do.answer_dimension or do.dimension
        asked = request.get("dimensions")
        odd = (do.nan_for, do.zero_for) != (None, None) or (asked is not None and do.dimensions in ("honour", "cut"))
        if base64 or odd:
            vectors = vectors_of(request["model"], texts, dimension)
            if odd:
                vectors = self._odd(vectors, texts, asked)
        if base64:
            items = [b'"' + pybase64.b64encode(row.tobytes()) + b'"' for row in vectors]
            if do.base64 == "garbage":
                items = [b'"?' + item[2:] for item in items]
        elif odd:
            items = [json.dumps(row).encode() for row in vectors.tolist()]
        else:
            items = numbers_of(request["model"], texts, dimension)
        return self._assemble(request, items)

    def _odd(self, vectors: Any, texts: list[str], asked: int | None) -> Any:
        do = self.behaviour
        if asked is not None and do.dimensions in ("honour", "cut"):
            vectors = vectors[:, :asked]
            if do.dimensions == "honour":
                vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.array(vectors, dtype="<f4")
        for place, text in enumerate(texts):
            if do.nan_for is not None and do.nan_for in text:
                vectors[place, 0] = np.nan
            if do.zero_for is not None and do.zero_for in text:
                vectors[place] = 0
        return vectors

    def _assemble(self, request: dict[str, Any], items: list[bytes]) -> bytes:
        do = self.behaviour
        if do.extra_items > 0:
            items = items + items[:1] * do.extra_items
        elif do.extra_items < 0:
            items = items[: do.extra_items]
        if do.without_index:
            rows = [b'{"object":"embedding","embedding":%b}' % item for item in items]
        else:
            rows = [b'{"object":"embedding","index":%d,"embedding":%b}' % row for row in enumerate(items)]
        if do.shuffled:
            rows = rows[1::2] + rows[::2]
        model = json.dumps(request["model"]).encode()
        return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":0}}' % (
            b",".join(rows),
            model,
        )


def _canned(fault: Fault) -> Answer | None:
    if fault.drop:
        return None
    if fault.body is not None:
        return Answer(fault.status, fault.body.encode(), fault.headers, "application/octet-stream")
    answer = error_answer(fault.status, fault.message, fault.shape, fault.code)
    return dataclasses.replace(answer, headers=fault.headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--latency-per-input", type=float, default=0.0, help="seconds")
    parser.add_argument("--capacity", type=float, default=None, help="inputs a second in all")
    parser.add_argument("--batch-limit", type=int, default=None)
    parser.add_argument("--base64", default="yes", choices=["yes", "ignored", "refused", "always", "garbage"])
    parser.add_argument("--dimensions", default="honour", choices=["honour", "cut", "ignore", "refuse"])
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--no-record", action="store_true", help="do not keep texts and headers")
    chosen = vars(parser.parse_args())
    port = chosen.pop("port")
    record = not chosen.pop("no_record")
    service = EmbeddingService(Behaviour(record=record, **chosen), port=port)
    # The first request must not pay for the tables.
    vectors_of("", ["x"], service.behaviour.dimension)
    if service.behaviour.base64 in ("ignored", "refused"):
        numbers_of("", ["x"], service.behaviour.dimension)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(service.serve(lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()
