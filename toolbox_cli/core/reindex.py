"""``toolbox reindex``: which generations have something to be embedded, doing it, and leaving their indexes right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import Field

from toolbox_cli.core.batches import ASCII_CHARACTERS_A_TOKEN
from toolbox_cli.core.filling import ReindexOptions, Run, complete_index, defers_index, fill, remark, selected
from toolbox_cli.core.gates import loaded
from toolbox_cli.core.service import at_its_service
from toolbox_cli.domain.errors import EmbeddingServiceError, InterruptedRunError, StateError, ToolboxError
from toolbox_cli.domain.models import Frozen, Generation, ReindexSummary, Role
from toolbox_cli.domain.ports import DEFAULT_BATCH

if TYPE_CHECKING:
    from toolbox_cli.domain.changes import CutoverReport
    from toolbox_cli.domain.ports import Embedder, Progress
    from toolbox_cli.domain.reindexing import EmbeddingStore
    from toolbox_cli.domain.settings import Settings

#: Builds the embedder of a generation, given the batch limit that an earlier run has learned of its service.
BuildEmbedder = Callable[[Generation, int | None], "Embedder"]

#: The order in which generations are seen to: what search reads comes first, and is mostly a few new tools.
ORDER = (Role.CURRENT, Role.BUILDING, Role.PREVIOUS)


@dataclass
class ReindexOutcome:
    """What became of each generation, and the error that ended the run early or kept one of them from being done.

    ``summary`` is that of the generation being built, where one is; ``others`` are those of the others.
    """

    summary: ReindexSummary
    others: list[ReindexSummary] = field(default_factory=list)
    stopped_by: ToolboxError | None = None
    #: What became of the cutover that was to follow; None where none was asked for, or it did not come to it.
    cutover: CutoverReport | None = None


class ReindexPlan(Frozen):
    """What a run would do. ``seconds`` is None where the service's speed has not been measured yet.

    ``builds_index`` is for an index that is not there, does not serve, or is to be built anew; ``defers_index`` for one
    that is dropped before the load.
    """

    generation: str
    model: str | None
    selected: int
    unchanged: int
    pending: int
    reasons: dict[str, int]
    estimated_tokens: int
    requests: int
    seconds: float | None
    defers_index: bool
    builds_index: bool
    others: list[ReindexPlan] = Field(default_factory=list)


async def plan_reindex(
    store: EmbeddingStore, settings: Settings, options: ReindexOptions, roles: Sequence[Role]
) -> ReindexPlan:
    """What ``reindex`` would do now; reads only, and asks no service anything."""
    chosen = _chosen(await store.generations(), roles)
    main = _main(chosen)
    left = options.limit
    plans: dict[Role, ReindexPlan] = {}
    for generation in chosen:
        own = _options_for(generation, main, replace(options, limit=left))
        plans[generation.role] = plan = await _plan_one(store, at_its_service(generation, settings), own)
        left = None if left is None else left - plan.pending
        if left == 0:
            break
    found = plans.pop(main.role) if main.role in plans else plans.pop(chosen[0].role)
    return found.model_copy(update={"others": list(plans.values())})


async def _plan_one(store: EmbeddingStore, generation: Generation, options: ReindexOptions) -> ReindexPlan:
    scope = await store.scope(generation, await selected(store, options), measure=True)
    pending = min(scope.pending, options.limit or scope.pending)
    learned = await store.learned(generation)
    batch = options.batch_size or (learned.max_batch if learned else None) or DEFAULT_BATCH
    rate = learned.tools_per_second if learned else None
    share = pending / scope.pending if scope.pending else 0
    return ReindexPlan(
        generation=generation.role.value,
        model=generation.model,
        selected=scope.selected,
        unchanged=scope.unchanged,
        pending=pending,
        reasons=scope.reasons(),
        estimated_tokens=round(scope.characters * share / ASCII_CHARACTERS_A_TOKEN),
        requests=-(-pending // batch),
        seconds=round(pending / rate, 1) if rate else None,
        defers_index=not options.keep_index and await defers_index(store, generation, options, scope, pending),
        builds_index=await _builds_index(store, generation, options, pending),
    )


async def _builds_index(store: EmbeddingStore, generation: Generation, options: ReindexOptions, pending: int) -> bool:
    if generation.index_method == "none":
        return False
    if not options.rebuild_index and await store.index_fault(generation) is None:
        return False
    census = await store.census(generation)
    if generation.index_method == "ivfflat" and not (census.fresh + census.stale + pending):
        # Its lists are the means of what is there.
        return False
    left = census.model_copy(update={"missing": max(0, census.missing + census.stale - pending), "stale": 0})
    return generation.role is not Role.BUILDING or loaded(left)


async def reindex(
    store: EmbeddingStore,
    build_embedder: BuildEmbedder,
    settings: Settings,
    options: ReindexOptions,
    roles: Sequence[Role],
    progress: Progress,
    stop: asyncio.Event,
) -> ReindexOutcome:
    """Bring the vectors of the chosen generations up to date: the current one and one being built, unless ``roles``.

    Tools that were edited while they were embedded are taken again, at most ``PASSES`` times: a tool that changes
    every second is left stale rather than paid for without end. ``stop`` ends the run early: answers under way are
    stored. A service that cannot be used does not keep the other generations from being filled. Raises StateError for
    vectors of unknown origin, for a pooler that cannot hold our locks, and where a chosen generation is not there.
    """
    await store.check_session()
    runs: list[Run] = []
    stopped_by: ToolboxError | None = None
    # Which generation has which column is settled here, and stays so while this lock is held.
    async with store.as_worker(progress):
        chosen = _chosen(await store.generations(), roles)
        main = _main(chosen)
        left = options.limit
        for generation in chosen:
            run = Run(generation)
            runs.append(run)
            own = _options_for(generation, main, replace(options, limit=left))
            error = await _fill_one(store, build_embedder, settings, run, own, progress, stop)
            stopped_by = stopped_by or error
            left = None if left is None else left - run.embedded
            if left == 0 or (error is not None and not isinstance(error, EmbeddingServiceError)):
                break
    if not isinstance(stopped_by, InterruptedRunError):
        for run in runs:
            stopped_by = stopped_by or await complete_index(store, run, progress, stop, rebuild=options.rebuild_index)
    return _outcome(runs, main, stopped_by, limited=options.limit is not None)


async def _fill_one(
    store: EmbeddingStore,
    build_embedder: BuildEmbedder,
    settings: Settings,
    run: Run,
    options: ReindexOptions,
    progress: Progress,
    stop: asyncio.Event,
) -> ToolboxError | None:
    run.generation = at_its_service(run.generation, settings)
    learned = await store.learned(run.generation)
    run.learned = learned
    embedder = build_embedder(run.generation, options.batch_size or (learned.max_batch if learned else None))
    try:
        return await fill(store, embedder, run, await selected(store, options), options, progress, stop)
    finally:
        remark(run, progress)
        await embedder.aclose()


def _chosen(found: Mapping[Role, Generation], roles: Sequence[Role]) -> list[Generation]:
    """The generations to see to, in order."""
    for role in roles:
        if role not in found:
            raise StateError(f"the registry has no {role.value} generation", hint="`toolbox status` shows what it has.")
    building = found.get(Role.BUILDING)
    wanted = set(roles)
    if not wanted:
        wanted.add(Role.CURRENT)
        if building is not None and building.rolled_back_at is None:
            wanted.add(Role.BUILDING)
    chosen = [found[role] for role in ORDER if role in wanted and role in found]
    signed = [generation for generation in chosen if generation.model is not None]
    if chosen and not signed:
        raise StateError(
            f"nothing says which model made the {chosen[0].dimension} dimensions of this registry",
            hint="Say which one is to be used from now on: toolbox migrate --model M --dimension N.",
        )
    return signed


def _main(chosen: Sequence[Generation]) -> Generation:
    """The one that a run is about: the one being built, else the first."""
    return next((generation for generation in chosen if generation.role is Role.BUILDING), chosen[0])


def _options_for(generation: Generation, main: Generation, options: ReindexOptions) -> ReindexOptions:
    """``--all`` is meant for the generation that the run is about: the others are only kept fresh."""
    return options if generation is main else replace(options, everything=False)


def _outcome(
    runs: Sequence[Run], main: Generation, stopped_by: ToolboxError | None, *, limited: bool
) -> ReindexOutcome:
    summaries = {run.generation.role: run.summary(limited=limited) for run in runs}
    first = main.role if main.role in summaries else runs[0].generation.role
    summary = summaries.pop(first)
    return ReindexOutcome(summary, list(summaries.values()), stopped_by)
