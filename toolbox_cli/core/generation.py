"""Changes of schema and generations: show, agree, back up, lock, look again, carry out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolbox_cli.core.service import contradictions
from toolbox_cli.domain.changes import Outline, SchemaChange, SchemaStore, same_agreement
from toolbox_cli.domain.errors import NegativeAnswerError, StateError

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress
    from toolbox_cli.domain.settings import Settings


@dataclass(frozen=True)
class Consent:
    """How an operator agrees. ``ask`` is None where nobody can be asked (no terminal)."""

    yes: bool = False
    force: bool = False
    ask: Callable[[Outline], bool] | None = None


async def change(
    store: SchemaStore,
    plan: Callable[[], Awaitable[SchemaChange]],
    *,
    consent: Consent,
    dry_run: bool,
    progress: Progress,
    settings: Settings | None,
    backup: Callable[[], Awaitable[None]] | None = None,
) -> Outline:
    """Carry a planned change out, or only show it; with ``settings`` say which of them contradict the registry now.

    Raises NegativeAnswerError when something would be lost or set aside and nobody agreed, StateError when views
    depend on a column that moves or when the registry has changed since the question was asked.
    """
    agreed = (await plan()).outline
    if dry_run:
        return agreed
    done = agreed if agreed.empty else await _carry_out(store, plan, agreed, consent, progress, backup)
    present = await store.generation()
    if settings is None or present is None:
        return done
    # Also where nothing was done: whoever repeats a command that was killed has not read what it would have said.
    return done.model_copy(update={"settings": contradictions(present, settings)[1] or None})


async def _carry_out(
    store: SchemaStore,
    plan: Callable[[], Awaitable[SchemaChange]],
    agreed: Outline,
    consent: Consent,
    progress: Progress,
    backup: Callable[[], Awaitable[None]] | None,
) -> Outline:
    check_consent(agreed, consent)
    if backup is not None:
        await backup()
    async with store.exclusive_lock(progress):
        # The answer may have taken hours, and another operator may have been faster.
        planned = await plan()
        if not same_agreement(agreed, planned.outline):
            raise StateError(
                "the registry has changed while the question was open",
                hint="Nothing was done. Run the command again.",
            )
        await planned.execute(progress)
        return planned.outline


def check_consent(outline: Outline, consent: Consent) -> None:
    """Raise unless the operator agrees: StateError for what would be left behind, NegativeAnswerError for losses."""
    if outline.dependents and not consent.force:
        raise StateError(
            f"these name a column that is about to be renamed or dropped, and cannot be carried over: "
            f"{', '.join(outline.dependents)}",
            hint="Drop them and create them again afterwards, or go on with --force: they stay on the old column.",
        )
    if consent.yes or not (outline.losses or outline.retires or outline.questions):
        return
    if consent.ask is not None:
        if not consent.ask(outline):
            raise NegativeAnswerError("not agreed; nothing was changed")
        return
    if outline.losses:
        raise NegativeAnswerError(
            f"this would lose for good: {'; '.join(outline.losses)}",
            hint="Nothing was changed. --yes agrees to it, --backup FILE keeps a copy, --dry-run shows the plan.",
        )
    if outline.questions:
        raise NegativeAnswerError(
            "; ".join(outline.questions), hint="Nothing was changed. --yes agrees to it, --dry-run shows the plan."
        )
