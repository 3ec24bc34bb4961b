"""The service of the generation: does it answer, with the right dimension, and is a tool found by its own text?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.core.batches import longest_text, truncated
from toolbox_cli.core.checks.vectors import SAME_MODEL, check_drift
from toolbox_cli.domain.errors import EmbeddingServiceError, InputRefusedError, WrongDimensionError
from toolbox_cli.domain.models import CheckStatus, Generation
from toolbox_cli.domain.searching import SearchFilter
from toolbox_cli.domain.settings import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.domain.ports import Embedder
    from toolbox_cli.domain.searching import SearchStore
    from toolbox_cli.domain.verification import Inspector

#: What needs the service, in this order.
SERVICE_CHECKS = ("service", "service_dimension", "drift", "search")


def skip_service(verification: Verification, why: str) -> None:
    for name in SERVICE_CHECKS:
        verification.add(name, CheckStatus.SKIP, why)


async def check_service(
    verification: Verification,
    inspector: Inspector,
    store: SearchStore,
    build_embedder: Callable[[Generation], Embedder],
    generation: Generation,
    sample: int,
    suspects: Sequence[int],
) -> None:
    embedder = build_embedder(generation)
    where = f"{generation.model} at {generation.endpoint_url}"
    if generation.endpoint_url == BUILTIN:
        where = f"the built-in model {generation.model}"
    try:
        await embedder.embed_query("a tool that adds two numbers")
        verification.add("service", CheckStatus.PASS, f"{where} answers")
        detail = f"it makes {generation.dimension} dimensions, as the column has"
        verification.add("service_dimension", CheckStatus.PASS, detail)
        limit = longest_text(generation, await inspector.learned(generation))
        await check_drift(verification, inspector, embedder, generation, sample, suspects, limit)
        await _find_by_own_text(verification, inspector, store, embedder, generation, limit)
    except WrongDimensionError as exc:
        verification.replace("service", CheckStatus.PASS, f"{where} answers")
        remedy = f"toolbox migrate --dimension {exc.found}, or serve the model that makes {exc.expected}"
        verification.replace("service_dimension", CheckStatus.FAIL, exc.message, remedy)
        for name in SERVICE_CHECKS[2:]:
            verification.replace(name, CheckStatus.SKIP, "needs a service of the right dimension")
    except EmbeddingServiceError as exc:
        verification.replace("service", CheckStatus.FAIL, exc.message, exc.hint or "start the embedding service")
        for name in SERVICE_CHECKS[1:]:
            verification.replace(name, CheckStatus.SKIP, "needs the embedding service")
    finally:
        await embedder.aclose()


async def _find_by_own_text(
    verification: Verification,
    inspector: Inspector,
    store: SearchStore,
    embedder: Embedder,
    generation: Generation,
    limit: int | None,
) -> None:
    samples = await inspector.sample(generation, 1)
    if not samples:
        verification.add("search", CheckStatus.SKIP, "there is no fresh vector to look for yet")
        return
    sample = samples[0]
    text = truncated(sample.text, limit)
    try:
        vector = (await embedder.embed_documents([text]))[0]
    except InputRefusedError as exc:
        verification.add("search", CheckStatus.WARN, f"the service refuses the text of {sample.name}: {exc.message}")
        return
    hits = await store.nearest(generation, vector, SearchFilter(), 5)
    similarity = next((hit.cosine for hit in hits if hit.id == sample.id), None)
    found = similarity is not None and similarity >= SAME_MODEL
    if found:
        detail = f"{sample.name} is found by its own text, similarity {similarity:.4f}"
    elif similarity is not None:
        detail = f"{sample.name} has only similarity {similarity:.4f} to its own text: another model made its vector"
    else:
        detail = f"{sample.name} is not among the five nearest to its own text"
    verification.require("search", found, detail, "toolbox reindex --all")
