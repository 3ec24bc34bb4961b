"""Find out what an embedding service does, by asking it: limits, order, encodings, speed.

Every probe is a request of the usual kind, with texts of our own. Connection and key are tried first: whatever goes
wrong after that is a property of the service and not of the way to it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import ConfigurationError, EmbeddingServiceError, InputRefusedError, WrongDimensionError
from toolbox_cli.domain.ports import DEFAULT_BATCH
from toolbox_cli.domain.profiles import ServiceProfile

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Generation
    from toolbox_cli.domain.ports import Embedder, Progress, ServiceProbe, Vectors

#: Batches that are tried, up to what OpenAI takes in one request.
BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
#: Words of the inputs that are tried; a word is about 1.3 tokens.
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
#: No input of more words is sent once one has taken so many seconds: a model on a processor may need minutes.
PATIENCE = 10.0
#: Two vectors whose components differ by less are of the same tokens; batches differ by about 2e-7.
SAME = 1e-6
NO_SUCH_MODEL = "toolbox-probe-no-such-model"
_WORDS = (
    "tool",
    "adds",
    "numbers",
    "weather",
    "letter",
    "music",
    "forest",
    "engine",
    "harbour",
    "winter",
    "copper",
    "river",
)


async def profile_service(build: ServiceProbe, generation: Generation, progress: Progress) -> ServiceProfile:
    """Probe the service of a generation.

    Only a refusal is an answer. Raises EmbeddingServiceError when the service does not answer at all, or is too busy:
    what was found so far says nothing then.
    """
    progress.start("probing the service", 6)
    one = build(max_batch=1)
    try:
        vectors, latency = await _one_by_one(one)
        progress.advance(1)
        agreement, order = await _batch_against_single(build, vectors)
        progress.advance(1)
        largest, refused_at = await _largest_batch(build)
        progress.advance(1)
        longest, beyond = await _longest_input(one)
        progress.advance(1)
        dimension = int(vectors.shape[1])
        dimensions, unknown = await _dimensions(build, dimension), await _unknown_model(build)
        progress.advance(1)
        speed = await _throughput(build, min(largest, DEFAULT_BATCH))
        progress.advance(1)
        return ServiceProfile(
            model=generation.model or "",
            endpoint_url=generation.endpoint_url or "",
            dimension=dimension,
            normalised=_normalised(vectors),
            largest_batch=largest,
            batch_refused_at=refused_at,
            longest_input=longest,
            long_inputs=beyond,
            order=order,
            agreement=agreement,
            base64=one.answered_base64,
            dimensions=dimensions,
            unknown_model=unknown,
            latency_seconds=round(latency, 4),
            texts_per_second=round(speed, 1),
            probed_at=datetime.now(UTC),
        )
    finally:
        progress.finish()
        await one.aclose()


def _texts(count: int) -> list[str]:
    return [f"{_WORDS[number % len(_WORDS)]} number {number}" for number in range(count)]


async def _one_by_one(embedder: Embedder) -> tuple[Vectors, float]:
    """Eight texts alone: shape (8, dimension), and the median seconds."""
    import numpy as np

    found: list[Vectors] = []
    seconds: list[float] = []
    for text in _texts(8):
        started = time.perf_counter()
        found.append((await embedder.embed_documents([text]))[0])
        seconds.append(time.perf_counter() - started)
    # The first pays for connecting or loading.
    return np.stack(found), statistics.median(seconds[1:])


async def _batch_against_single(build: ServiceProbe, alone: Vectors) -> tuple[float, str]:
    """The least cosine between a text alone and in a batch, and whether the answers came in order."""
    import numpy as np

    embedder = build(max_batch=len(alone))
    try:
        together = await embedder.embed_documents(_texts(len(alone)))
    except EmbeddingServiceError:
        return 1.0, "kept"
    finally:
        await embedder.aclose()
    cosines = (alone @ together.T) / np.outer(np.linalg.norm(alone, axis=1), np.linalg.norm(together, axis=1))
    places = cosines.argmax(axis=1)
    if (places == np.arange(len(alone))).all():
        return round(float(np.diag(cosines).min()), 6), "by index" if embedder.answered_out_of_order else "kept"
    return round(float(cosines.max(axis=1).min()), 6), "lost"


async def _largest_batch(build: ServiceProbe) -> tuple[int, int | None]:
    """The largest batch that was accepted, and the smallest that was not (None: all were)."""
    accepted, refused = 1, None
    for size in BATCHES:
        if not await _accepts(build, size):
            refused = size
            break
        accepted = size
    while refused is not None and refused - accepted > max(1, accepted // 8):
        middle = (accepted + refused) // 2
        if await _accepts(build, middle):
            accepted = middle
        else:
            refused = middle
    return accepted, refused


async def _accepts(build: ServiceProbe, size: int) -> bool:
    embedder = build(max_batch=size)
    try:
        await embedder.embed_documents(_texts(size))
    except InputRefusedError:
        return False
    else:
        # A refused batch is sent again in smaller ones; what was learned of it shows.
        return embedder.max_batch >= size
    finally:
        await embedder.aclose()


async def _longest_input(embedder: Embedder) -> tuple[int, str]:
    """The largest number of words that is read to its end (to an eighth), and what happens to longer ones."""
    read, beyond, over = 0, "read", None
    for length in LENGTHS:
        started = time.perf_counter()
        found = await _read(embedder, length)
        if found != "read":
            beyond, over = found, length
            break
        read = length
        if time.perf_counter() - started > PATIENCE:
            break
    while over is not None and over - read > max(8, read // 8):
        middle = (read + over) // 2
        found = await _read(embedder, middle)
        if found == "read":
            read = middle
        else:
            beyond, over = found, middle
    return read, beyond


async def _read(embedder: Embedder, length: int) -> str:
    """What happens to an input of so many words: ``read``, ``cut`` or ``refused``.

    Two texts that differ in their last tenth have the same vector only if that was cut off.
    """
    import numpy as np

    differing = max(1, length // 10)
    common = [_WORDS[number % len(_WORDS)] for number in range(length - differing)]
    pair = []
    for word in ("winter", "copper"):
        try:
            pair.append((await embedder.embed_documents([" ".join([*common, *[word] * differing])]))[0])
        except InputRefusedError:
            return "refused"
    return "cut" if float(np.abs(pair[0] - pair[1]).max()) < SAME else "read"


async def _dimensions(build: ServiceProbe, dimension: int) -> str | None:
    """What the parameter ``dimensions`` does: only services over HTTP have one."""
    if dimension < 2:
        return None
    wanted = dimension // 2
    try:
        embedder = build(dimension=wanted, send_dimensions=True)
    except ConfigurationError:
        return "refused"
    try:
        await embedder.embed_documents(_texts(1))
    except WrongDimensionError:
        return "ignored"
    except EmbeddingServiceError:
        return "refused"
    else:
        return "honoured"
    finally:
        await embedder.aclose()


async def _unknown_model(build: ServiceProbe) -> str:
    """Services that echo any name prove nothing by it."""
    try:
        embedder = build(model=NO_SUCH_MODEL)
    except ConfigurationError:
        return "refused"
    try:
        await embedder.embed_documents(_texts(1))
    except EmbeddingServiceError:
        return "refused"
    else:
        return "answered"
    finally:
        await embedder.aclose()


async def _throughput(build: ServiceProbe, batch: int) -> float:
    """Texts a second in batches, four requests in flight."""
    embedder = build(max_batch=batch)
    slots = asyncio.Semaphore(4)

    async def ask() -> None:
        async with slots:
            await embedder.embed_documents(_texts(batch))

    try:
        await ask()
        started = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(12)))
        return 12 * batch / (time.perf_counter() - started)
    except EmbeddingServiceError:
        return 0.0
    finally:
        await embedder.aclose()


def _normalised(vectors: Vectors) -> bool:
    import numpy as np

    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01).all())
