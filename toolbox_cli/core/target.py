"""Which embedding space an operator asks for: options, settings, the registry, the catalogue and the service."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from toolbox_cli.domain.catalog import canonical_name, check_pair, find_model
from toolbox_cli.domain.errors import ConfigurationError, EmbeddingServiceError, InvalidUsageError
from toolbox_cli.domain.models import MAX_DIMENSION, EmbeddingSpace, Generation, IndexMethod, Target
from toolbox_cli.domain.settings import (
    BUILTIN,
    BUILTIN_MODEL,
    DEFAULT_DIMENSION,
    DEFAULT_ENDPOINT_URL,
    DEFAULT_MODEL,
    Settings,
    check_endpoint_url,
)

#: Asks a service for the dimension that a model really makes: (model, endpoint URL) to dimension.
Probe = Callable[[str, str], Awaitable[int]]


@dataclass(frozen=True)
class TargetOptions:
    """What was typed; None is "not given"."""

    dimension: int | None = None
    model: str | None = None
    endpoint_url: str | None = None
    index_method: IndexMethod | None = None
    #: The name of the variable that holds the key of the service; never the key.
    api_key_env: str | None = None


async def resolve_target(
    options: TargetOptions, settings: Settings, current: Generation | None, probe: Probe
) -> Target:
    """The target of a migration; touches nothing.

    The dimension is: the option, else EMBEDDING_DIMENSION, else that of the current generation when the model stays
    the same, else the known model's own, else what the service answers, else 1536. Where neither options nor settings
    name a model, a registry keeps the one it has. Raises ConfigurationError for a pair that cannot be.
    """
    _check_options(options, settings)
    known_current = current if current is not None and current.model is not None else None
    endpoint = _endpoint(options, settings, known_current)
    wanted_dimension = options.dimension or settings.embedding_dimension
    model = _model(options, settings, known_current, endpoint, wanted_dimension)
    kept = known_current is not None and canonical_name(model) == known_current.canonical_model
    if wanted_dimension is None and kept and known_current is not None:
        wanted_dimension = known_current.dimension
    dimension = wanted_dimension or await _own_dimension(model, endpoint, probe)
    from_settings = options.dimension is None and settings.embedding_dimension is not None
    check_pair(model, dimension, "EMBEDDING_DIMENSION" if from_settings else "")
    known = find_model(model)
    if kept and known_current is not None:
        prefixes = (known_current.document_prefix, known_current.query_prefix)
    else:
        prefixes = (known.document_prefix, known.query_prefix) if known else ("", "")
    return Target(
        space=EmbeddingSpace(model=model, dimension=dimension, document_prefix=prefixes[0], query_prefix=prefixes[1]),
        endpoint_url=endpoint,
        api_key_env=options.api_key_env,
        index_method=options.index_method,
    )


def _check_options(options: TargetOptions, settings: Settings) -> None:
    if options.api_key_env is not None:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", options.api_key_env):
            # What was given may be the key itself.
            raise InvalidUsageError(
                "--api-key-env is no name of a variable (capital letters, digits, _)",
                hint="Put the key into a variable, e.g. NEW_SERVICE_KEY, and give its name: the key is never stored.",
            )
        if settings.api_key(options.api_key_env) is None:
            raise ConfigurationError(
                f"the variable {options.api_key_env} that --api-key-env names is not set",
                hint="Set it in the environment or in .env to the service's key.",
            )
    if options.dimension is not None and not 1 <= options.dimension <= MAX_DIMENSION:
        raise InvalidUsageError(
            f"--dimension is {options.dimension}, expected 1 to {MAX_DIMENSION}: pgvector stores no more",
            hint="`toolbox models` shows what the known models make.",
        )
    if options.model is not None and not options.model.strip():
        raise InvalidUsageError("--model is empty", hint="`toolbox models` shows the known models.")


def _endpoint(options: TargetOptions, settings: Settings, current: Generation | None) -> str:
    if options.endpoint_url is not None:
        try:
            return check_endpoint_url(options.endpoint_url)
        except ValueError as exc:
            # A refused URL may hold a password or, in its query, a key.
            found = "" if set("@?") & set(options.endpoint_url) else f" is {options.endpoint_url!r}"
            raise InvalidUsageError(
                f"--endpoint-url{found}: {exc}", hint="For example http://localhost:1234/v1/embeddings"
            ) from exc
    if settings.embedding_endpoint_url is not None:
        return settings.embedding_endpoint_url
    stays = current is not None and options.model is None and settings.embedding_model is None
    if stays and current is not None and current.endpoint_url is not None:
        return current.endpoint_url
    return DEFAULT_ENDPOINT_URL


def _model(
    options: TargetOptions,
    settings: Settings,
    current: Generation | None,
    endpoint: str,
    dimension: int | None,
) -> str:
    if endpoint == BUILTIN:
        if options.model is not None and canonical_name(options.model) != BUILTIN_MODEL:
            raise ConfigurationError(
                f"the built-in model is {BUILTIN_MODEL}, found --model {options.model}",
                hint="Leave --model out, or give the URL of a service that has it (--endpoint-url).",
            )
        return BUILTIN_MODEL
    chosen = options.model or settings.embedding_model
    if chosen is not None:
        if canonical_name(chosen) == BUILTIN_MODEL:
            raise ConfigurationError(
                f"model {chosen!r} is built in, found the endpoint {endpoint}",
                hint="Set EMBEDDING_ENDPOINT_URL=builtin (or --endpoint-url builtin) to use it.",
            )
        return chosen.strip()
    if current is not None and current.model is not None and current.canonical_model != BUILTIN_MODEL:
        known = find_model(current.model)
        if dimension is None or known is None or known.allows(dimension):
            return current.model
    return DEFAULT_MODEL


async def _own_dimension(model: str, endpoint: str, probe: Probe) -> int:
    known = find_model(model)
    if known is not None:
        return known.dimension
    try:
        return await probe(model, endpoint)
    except EmbeddingServiceError:
        return DEFAULT_DIMENSION
