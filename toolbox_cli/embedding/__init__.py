"""Embedding services and the built-in model, behind ``domain.ports.Embedder``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.domain.catalog import find_model
from toolbox_cli.domain.ports import DEFAULT_BATCH
from toolbox_cli.domain.settings import BUILTIN

if TYPE_CHECKING:
    from toolbox_cli.embedding.http import HttpEmbedder
    from toolbox_cli.embedding.local import LocalEmbedder


def build_embedder(
    *,
    model: str,
    dimension: int | None,
    document_prefix: str,
    query_prefix: str,
    endpoint_url: str,
    api_key: str | None,
    request_timeout: float,
    retry_timeout: float,
    max_batch: int | None = None,
    send_dimensions: bool | None = None,
) -> HttpEmbedder | LocalEmbedder:
    """The embedder of one space. No request is made and no model read before its first use.

    ``dimension`` None takes what the service makes. Unless ``send_dimensions`` says otherwise, ``dimensions`` is sent
    only where the catalogue knows that the model takes it and a cut is asked for: servers refuse it, or ignore it, for
    others. ``max_batch`` is the number of texts to begin with in a request. Times are in seconds.

    Raises ConfigurationError.
    """
    if endpoint_url == BUILTIN:
        from toolbox_cli.embedding.local import LocalEmbedder

        return LocalEmbedder(
            model=model, dimension=dimension, document_prefix=document_prefix, query_prefix=query_prefix
        )
    from toolbox_cli.embedding.http import HttpEmbedder

    known = find_model(model)
    if send_dimensions is None:
        send_dimensions = known is not None and known.dimensions_parameter and dimension not in (None, known.dimension)
    return HttpEmbedder(
        endpoint_url=endpoint_url,
        model=model,
        dimension=dimension,
        document_prefix=document_prefix,
        query_prefix=query_prefix,
        api_key=api_key,
        send_dimensions=send_dimensions,
        request_timeout=request_timeout,
        retry_timeout=retry_timeout,
        max_batch=max_batch or DEFAULT_BATCH,
    )
