"""``toolbox cutover``: the new generation takes over, if it is ready, with nothing lost and hardly anybody waiting."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolbox_cli.core.filling import ReindexOptions, Run, fill
from toolbox_cli.core.gates import MIN_RECALL, coverage_gate, index_gate, recall_gate
from toolbox_cli.core.generation import Consent, check_consent
from toolbox_cli.core.recall import index_recall
from toolbox_cli.core.reindex import ReindexOutcome, reindex
from toolbox_cli.core.service import at_its_service, contradictions
from toolbox_cli.domain.changes import (
    ChangedMeanwhileError,
    CutoverChange,
    CutoverReport,
    SchemaStore,
    Side,
    same_agreement,
)
from toolbox_cli.domain.errors import NegativeAnswerError, StateError, ToolboxError
from toolbox_cli.domain.models import Check, CheckStatus, Generation, Role
from toolbox_cli.domain.reindexing import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolbox_cli.core.reindex import BuildEmbedder
    from toolbox_cli.domain.ports import Embedder, Progress
    from toolbox_cli.domain.reindexing import EmbeddingStore, Learned
    from toolbox_cli.domain.searching import QualityStore
    from toolbox_cli.domain.settings import Settings


@dataclass(frozen=True)
class CutoverOptions:
    min_recall: float = MIN_RECALL
    dry_run: bool = False


@dataclass(frozen=True)
class Workshop:
    """What a cutover works with."""

    registry: SchemaStore
    store: EmbeddingStore
    quality: QualityStore
    build_embedder: BuildEmbedder
    settings: Settings
    progress: Progress
    stop: asyncio.Event


async def cutover(work: Workshop, options: CutoverOptions, consent: Consent) -> CutoverReport:
    """Check, catch up, swap.

    Raises StateError when nothing is being built, NegativeAnswerError when tools change faster than they can be
    embedded, LockBusyError naming who holds the table, EmbeddingServiceError when the last tools cannot be embedded.
    """
    change = await work.registry.plan_cutover()
    if change.already_done:
        return _report(work, change, [])
    checks = await gates(work.store, work.quality, change.generation, options.min_recall)
    refused = any(check.status is CheckStatus.FAIL for check in checks)
    if options.dry_run or (refused and not consent.force):
        return _report(work, change, checks)
    check_consent(change.outline, consent)
    async with work.registry.exclusive_lock(work.progress):
        # The answer may have taken hours, and another operator may have been faster.
        planned = await work.registry.plan_cutover()
        if planned.already_done:
            return _report(work, planned, [])
        same = planned.generation.id == change.generation.id
        if not same or not same_agreement(change.outline, planned.outline):
            raise StateError(
                "the registry has changed while the question was open",
                hint="Nothing was done. Run the command again.",
            )
        fault = index_gate(planned.generation, await work.store.index_fault(planned.generation))
        if fault.status is CheckStatus.FAIL and not consent.force:
            # A reindex that began meanwhile has put the index off until after its load.
            return _report(work, planned, [check for check in checks if check.name != fault.name] + [fault])
        caught_up, seconds = await _swap(work, planned, force=consent.force)
    return _report(work, planned, checks, caught_up=caught_up, seconds=seconds)


async def reindex_and_cut_over(
    work: Workshop, options: ReindexOptions, roles: Sequence[Role], consent: Consent
) -> ReindexOutcome:
    """Reindex, then cut over unless something went wrong; what a cutover would ask is asked before anything is paid."""
    change = await work.registry.plan_cutover()
    check_consent(change.outline, consent)
    if not roles and not change.already_done:
        # Also one that was set aside by a roll back: it is what is to be cut over to.
        roles = (Role.CURRENT, Role.BUILDING)
    outcome = await reindex(work.store, work.build_embedder, work.settings, options, roles, work.progress, work.stop)
    if outcome.stopped_by is None:
        try:
            outcome.cutover = await cutover(work, CutoverOptions(), Consent(yes=True, force=consent.force))
        except ToolboxError as exc:
            outcome.stopped_by = exc
    return outcome


async def gates(store: EmbeddingStore, quality: QualityStore, generation: Generation, min_recall: float) -> list[Check]:
    """What has to hold; reads only, and asks no service."""
    fault = await store.index_fault(generation)
    indexed = generation.index_method != "none" and fault is None
    return [
        coverage_gate(generation, await store.census(generation)),
        index_gate(generation, fault),
        recall_gate(await index_recall(quality, generation) if indexed else None, min_recall),
    ]


async def _swap(work: Workshop, change: CutoverChange, *, force: bool) -> tuple[int, float]:
    """Returns how many tools were caught up, and the seconds of the transaction."""
    await change.watch_changes(work.progress)
    try:
        return await _catch_up_and_swap(work, change, force=force)
    except BaseException:  # Ctrl-C, too, must not leave the log of changes behind
        with suppress(ToolboxError):
            await change.give_up(work.progress)
        raise


async def _catch_up_and_swap(work: Workshop, change: CutoverChange, *, force: bool) -> tuple[int, float]:
    generation = at_its_service(change.generation, work.settings)
    learned = await work.store.learned(generation)
    embedder = work.build_embedder(generation, learned.max_batch if learned else None)
    deadline: float | None = None
    caught_up = 0
    selection = Selection()
    try:
        while True:
            caught_up += await _catch_up(work, embedder, generation, selection, learned, force=force)
            try:
                return caught_up, await change.execute(work.progress, check=not force)
            except ChangedMeanwhileError as exc:
                # Counted from here: to catch up with what was there before may take longer by itself.
                deadline = deadline or time.monotonic() + work.settings.wait_timeout
                if time.monotonic() > deadline:
                    raise NegativeAnswerError(
                        f"tools change faster than they can be embedded: after {work.settings.wait_timeout:g} s there"
                        " are still some that have changed since they were caught up",
                        hint="Nothing was changed. Register fewer tools for a moment, or go on with --force and run"
                        " `toolbox reindex` right after it.",
                    ) from exc
            # From now on only what has been written down: looking at all of them takes longer than they last.
            selection = Selection(ids=await work.store.changed_tools())
    finally:
        await embedder.aclose()


async def _catch_up(
    work: Workshop,
    embedder: Embedder,
    generation: Generation,
    selection: Selection,
    learned: Learned | None,
    *,
    force: bool,
) -> int:
    run = Run(generation, learned)
    # The index is there and is to stay; these are few.
    options = ReindexOptions(keep_index=True)
    error = await fill(work.store, embedder, run, selection, options, work.progress, work.stop)
    if error is not None:
        raise error
    failures = run.summary(limited=False).failures
    if failures and not force:
        first = failures[0]
        raise NegativeAnswerError(
            f"{len(failures)} of the last tools were refused by the service, {first.name} ({first.id}) among them:"
            f" {first.error}",
            hint="Nothing was changed. Mend or switch off what `toolbox reindex` lists as failed, or go on with"
            " --force.",
        )
    return run.embedded


def _report(
    work: Workshop,
    change: CutoverChange,
    checks: list[Check],
    *,
    caught_up: int = 0,
    seconds: float | None = None,
) -> CutoverReport:
    former, present = change.current, change.generation
    return CutoverReport(
        done=seconds is not None,
        former=Side(model=former.model, dimension=former.dimension),
        present=Side(model=present.model, dimension=present.dimension),
        checks=checks,
        caught_up=caught_up,
        locked_seconds=None if seconds is None else round(seconds, 4),
        settings=contradictions(present, work.settings)[1] or None,
        already_since=present.activated_at if change.already_done else None,
        outline=change.outline,
    )
