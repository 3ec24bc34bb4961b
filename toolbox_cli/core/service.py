"""Which service makes a generation's vectors: the generation's own, never blindly the configured one."""

from __future__ import annotations

from toolbox_cli.domain.catalog import canonical_name, find_model
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Frozen, Generation
from toolbox_cli.domain.settings import BUILTIN, BUILTIN_MODEL, DEFAULT_ENDPOINT_URL, DEFAULT_MODEL, Settings


class Service(Frozen):
    """Where to send texts, under which model name, and with which prefixes."""

    model: str
    endpoint_url: str
    api_key_env: str | None
    document_prefix: str
    query_prefix: str
    #: What the operator should know of the choice, or None.
    note: str | None = None


def service_of(generation: Generation, settings: Settings) -> Service:
    """The service for a generation.

    Settings that name the same model may move it to another address or spell it another way; settings that name
    another model are not followed, and ``note`` says so. Raises StateError for vectors of unknown origin, unless a
    configured model can have made them.
    """
    configured = settings.embedding_model
    if generation.model is None:
        return _unsigned(generation, settings)
    own = generation.endpoint_url or DEFAULT_ENDPOINT_URL
    address = settings.embedding_endpoint_url
    same = configured is None or canonical_name(configured) == generation.canonical_model
    builtin = own == BUILTIN
    note = None
    endpoint, model = own, generation.model
    made = f"these vectors were made by {'the built-in model' if builtin else f'{generation.model} at {own}'}"
    if address is not None and (address == BUILTIN) != builtin:
        note = f"EMBEDDING_ENDPOINT_URL is {address}, but {made}: that one is used"
    elif not same and not (builtin and address == BUILTIN):
        note = f"EMBEDDING_MODEL is {configured}, but {made}: that one is used"
    elif address is not None:
        endpoint = address
        model = configured if configured and not builtin else generation.model
    return Service(
        model=model,
        endpoint_url=endpoint,
        api_key_env=generation.api_key_env or "EMBEDDING_API_KEY",
        document_prefix=generation.document_prefix,
        query_prefix=generation.query_prefix,
        note=note,
    )


def contradictions(generation: Generation, settings: Settings) -> tuple[list[str], str]:
    """What the settings say against the registry, and how to set them right.

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
    return wrong, f"set {' and '.join(right)} (in the environment or .env, also the server's)"


def configured_service(settings: Settings) -> Service:
    """The service that the settings name, the built-in model where its endpoint is ``builtin``."""
    endpoint = settings.embedding_endpoint_url or DEFAULT_ENDPOINT_URL
    model = BUILTIN_MODEL if endpoint == BUILTIN else settings.embedding_model or DEFAULT_MODEL
    known = find_model(model)
    return Service(
        model=model,
        endpoint_url=endpoint,
        api_key_env="EMBEDDING_API_KEY",
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
