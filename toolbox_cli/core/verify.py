"""Checks that look at the things themselves: columns, vectors, the service, an insert, a search.

Every check has a stable name, says what it found, and names the one command that mends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from toolbox_cli.core.checks.indexes import check_indexes
from toolbox_cli.core.checks.schema import (
    check_column,
    check_insert,
    check_leftovers,
    check_migrations,
    check_server,
    check_server_settings,
    check_settings,
)
from toolbox_cli.core.checks.service import check_service, skip_service
from toolbox_cli.core.checks.vectors import REINDEX_ALL, SAMPLE, check_coverage, check_vectors
from toolbox_cli.core.checks.verification import Verification
from toolbox_cli.core.profile import profile_service
from toolbox_cli.core.service import at_its_service
from toolbox_cli.domain.errors import EmbeddingServiceError
from toolbox_cli.domain.models import CheckStatus, Role

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Generation
    from toolbox_cli.domain.ports import Embedder, Progress, ServiceProbe
    from toolbox_cli.domain.searching import QualityStore
    from toolbox_cli.domain.settings import Settings
    from toolbox_cli.domain.verification import Inspector


class VerifiedServices(Protocol):
    """Where a generation's embedder comes from, and those that a probe needs."""

    def embedder(self, generation: Generation) -> Embedder: ...

    def probe(self, generation: Generation) -> ServiceProbe: ...


@dataclass(frozen=True)
class VerifyOptions:
    """``sample`` vectors are made again; ``offline`` leaves out what needs the service; ``profile`` also probes it."""

    offline: bool = False
    sample: int = SAMPLE
    profile: bool = False


async def verify(
    inspector: Inspector,
    store: QualityStore,
    settings: Settings,
    services: VerifiedServices,
    options: VerifyOptions,
    progress: Progress,
) -> Verification:
    """Run all checks; two runs over an unchanged registry look at the same tools and agree."""
    verification = Verification()
    await check_server(verification, inspector)
    facts = await inspector.schema()
    check_migrations(verification, facts)
    if facts.problem is not None or facts.generation is None:
        return verification
    generation = facts.generation
    check_column(verification, facts, generation)
    check_settings(verification, settings, generation)
    await check_server_settings(verification, inspector, facts)
    await check_leftovers(verification, inspector)
    await check_indexes(verification, store, facts, generation)
    await check_coverage(verification, inspector, generation)
    suspects = await check_vectors(verification, inspector, generation)
    await check_insert(verification, inspector, generation)
    if options.offline:
        skip_service(verification, "left out with --offline")
    elif generation.model is None:
        skip_service(verification, "nothing says which model made these vectors")
    else:
        await check_service(verification, inspector, store, services.embedder, generation, options.sample, suspects)
        if options.profile and not any(check.status is CheckStatus.FAIL for check in verification.of("service")):
            located = at_its_service(generation, settings)
            try:
                verification.profile = await profile_service(services.probe(generation), located, progress)
            except EmbeddingServiceError as exc:
                detail = f"the probe was given up, and nothing of it is kept: {exc.message}"
                verification.add("profile", CheckStatus.WARN, detail, "toolbox verify --profile")
            else:
                await inspector.keep_profile(located, verification.profile)
    if any(other.role is Role.BUILDING for other in facts.generations):
        # Without it --all is meant for the generation that is being built.
        verification.aim(REINDEX_ALL, "--generation current")
    return verification
