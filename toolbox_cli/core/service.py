"""Which service makes a generation's vectors: the generation's own, never blindly the configured one."""

from __future__ import annotations

from toolbox_cli.domain.catalog import canonical_name, find_model
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import DEFAULT_KEY_VARIABLE, Frozen, Generation, Role, Target
from toolbox_cli.domain.settings import BUILTIN, BUILTIN_MODEL, DEFAULT_ENDPOINT_URL, DEFAULT_MODEL, Settings


class Service(Frozen):
    """Where to send texts, under which model name, and with which prefixes."""

    model: str
    endpoint_url: str
    api_key_env: str | None
    document_prefix: str = ""
    query_prefix: str = ""
    #: What the operator should know of the choice, or None.
    note: str | None = None


def service_of(generation: Generation, settings: Settings) -> Service:
    """The service for a generation: its own.

    Settings that name the current generation's very model may move it to another address or spell it another way.
    Other settings are not followed, and ``note`` says so: an address alone may be that of the model before, or of the
    next one. Raises StateError for vectors of unknown origin, unless a configured model can have made them.
    """
    if generation.model is None:
        return _unsigned(generation, settings)
    endpoint, model, note = generation.endpoint_url or DEFAULT_ENDPOINT_URL, generation.model, None
    if generation.role is Role.CURRENT:
        note = _not_followed(generation, settings, endpoint)
        address = settings.embedding_endpoint_url
        if note is None and address is not None and address != endpoint:
            endpoint, model = address, settings.embedding_model or model
        elif note is None and settings.embedding_model and endpoint != BUILTIN:
            model = settings.embedding_model
    return Service(
        model=model,
        endpoint_url=endpoint,
        api_key_env=generation.api_key_env or DEFAULT_KEY_VARIABLE,
        document_prefix=generation.document_prefix,
        query_prefix=generation.query_prefix,
        note=note,
    )


def _not_followed(generation: Generation, settings: Settings, own: str) -> str | None:
    """Why the settings do not speak of this generation, or None when they do (or say nothing)."""
    address, configured = settings.embedding_endpoint_url, settings.embedding_model
    builtin = own == BUILTIN
    made = f"these vectors were made by {'the built-in model' if builtin else f'{generation.model} at {own}'}"
    if address is not None and (address == BUILTIN) != builtin:
        return f"EMBEDDING_ENDPOINT_URL is {address}, but {made}: that one is used"
    if builtin:
        return None
    if configured and canonical_name(configured) != generation.canonical_model:
        return f"EMBEDDING_MODEL is {configured}, but {made}: that one is used"
    if address in (None, own) or canonical_name(configured or DEFAULT_MODEL) == generation.canonical_model:
        return None
    return (
        f"EMBEDDING_ENDPOINT_URL is {address}, but {made}: that one is used (if {generation.model} is served at the"
        f" new address now, set EMBEDDING_MODEL={generation.model} too)"
    )


def at_its_service(generation: Generation, settings: Settings) -> Generation:
    """The generation with the address that is in use now: settings may have moved its model's service."""
    if generation.model is None:
        return generation
    return generation.model_copy(update={"endpoint_url": service_of(generation, settings).endpoint_url})


def service_for(target: Target) -> Service:
    """The service that a target names."""
    space = target.space
    return Service(
        model=space.model or "",
        endpoint_url=target.endpoint_url,
        api_key_env=target.api_key_env or DEFAULT_KEY_VARIABLE,
        document_prefix=space.document_prefix,
        query_prefix=space.query_prefix,
    )


def contradictions(generation: Generation, settings: Settings) -> tuple[list[str], str]:
    """What the settings say against the registry, and how to set them right: empty where there is nothing.

    The ToolBox server reads the same variables: where they differ from the registry, its inserts fail.
    """
    wrong: list[str] = []
    right: list[str] = []
    if settings.embedding_dimension not in (None, generation.dimension):
        wrong.append(f"EMBEDDING_DIMENSION is {settings.embedding_dimension}, the registry has {generation.dimension}")
        right.append(f"EMBEDDING_DIMENSION={generation.dimension}")
    configured = settings.embedding_model
    if configured and generation.model and canonical_name(configured) != generation.canonical_model:
        wrong.append(f"EMBEDDING_MODEL is {configured}, the registry was made with {generation.model}")
        right.append(f"EMBEDDING_MODEL={generation.model}")
    remedy = f"set {' and '.join(right)} (in the environment or .env, also the server's)"
    return wrong, remedy if wrong else ""


def configured_service(settings: Settings) -> Service:
    """The service that the settings name, the built-in model where its endpoint is ``builtin``."""
    endpoint = settings.embedding_endpoint_url or DEFAULT_ENDPOINT_URL
    model = BUILTIN_MODEL if endpoint == BUILTIN else settings.embedding_model or DEFAULT_MODEL
    known = find_model(model)
    return Service(
        model=model,
        endpoint_url=endpoint,
        api_key_env=DEFAULT_KEY_VARIABLE,
        document_prefix=known.document_prefix if known else "",
        query_prefix=known.query_prefix if known else "",
    )


def _unsigned(generation: Generation, settings: Settings) -> Service:
    """Vectors that were there before toolbox: the configured model, if it can make this dimension."""
    service = configured_service(settings)
    known = find_model(service.model)
    if known is not None and not known.allows(generation.dimension):
        raise StateError(
            f"nothing says which model made the {generation.dimension} dimensions that are stored; the configured"
            f" {service.model} makes {known.dimensions_text}",
            hint="Name the model that made them (EMBEDDING_MODEL), or run `toolbox migrate` and `toolbox reindex`.",
        )
    note = f"nothing says which model made these vectors: {service.model}, the configured one, is assumed"
    return service.model_copy(update={"note": note})
