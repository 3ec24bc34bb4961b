"""Planned changes carried out: in short transactions that step back from traffic and try again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from psycopg import sql

from toolbox_cli.db import online
from toolbox_cli.db.drafts import Plan, Statement
from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.planning import Planned, Step, plan_cutover
from toolbox_cli.db.queries import query
from toolbox_cli.db.state import RegistryState, read_state
from toolbox_cli.db.yoyo_runner import apply_one, rollback_one
from toolbox_cli.domain.changes import ChangedMeanwhileError, Outline, OutlineStatement, OutlineStep
from toolbox_cli.domain.errors import LockBusyError, StateError
from toolbox_cli.domain.models import Generation, Role

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress

#: Between two attempts for a lock, at first and at most, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Seconds for which a command that has failed tries to tidy up; the next one does it otherwise.
PATIENCE_AT_THE_END = 1.0


@dataclass(frozen=True)
class Session:
    """Where a change is carried out: the session that holds the registry's lock, and how long it may wait.

    On that very session: who loses the lock has by the same event lost the means to change anything.
    """

    conninfo: str
    connection: psycopg.AsyncConnection
    lock_timeout_ms: int
    wait_timeout: float

    async def run(self, plan: Plan, before: sql.Composable | None = None) -> None:
        """Execute a plan in one short transaction.

        Sent as one text, which PostgreSQL executes as one transaction: no lock is held for a round trip.
        """
        timeout = sql.SQL("SET LOCAL lock_timeout = {};\n").format(sql.Literal(self.lock_timeout_ms))
        await self.connection.execute(timeout + plan.script(before))

    async def patiently(
        self, attempt: Callable[[], Awaitable[None]], progress: Progress, *, patience: float | None = None
    ) -> None:
        """Try again while traffic holds the table: a statement that queues for it would block everybody behind it.

        Raises LockBusyError naming who is in the way when the lock cannot be had for ``patience`` seconds, the
        ``wait_timeout`` unless given.
        """
        patience = self.wait_timeout if patience is None else patience
        deadline = time.monotonic() + patience
        pause = FIRST_PAUSE
        told = ""
        watcher: asyncio.Task[str] | None = None
        while True:
            try:
                await attempt()
            except (pg.LockNotAvailable, LockBusyError) as exc:
                holders = (await watcher if watcher is not None else "") or await self._who_holds()
                if time.monotonic() > deadline:
                    raise LockBusyError(
                        f"the table 'tools' could not be locked within {patience:g} s: "
                        f"{holders or 'it was held by one short transaction after the other'}",
                        hint="Nothing of this step was done. Run it again when that session has ended its transaction."
                        f" Where statements of more than {self.lock_timeout_ms} ms overlap all the time, let others"
                        " wait as long as those take: TOOLBOX_LOCK_TIMEOUT_MS.",
                    ) from exc
                if holders and holders.split(" (")[0] != told:
                    told = holders.split(" (")[0]
                    progress.note(f"waiting for the table 'tools': {holders}")
                # Jitter: traffic may have a rhythm of its own.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(pause * 2, LONGEST_PAUSE)
                watcher = asyncio.create_task(self._who_blocks())
            else:
                if watcher is not None:
                    watcher.cancel()
                    with suppress(asyncio.CancelledError):
                        await watcher
                return

    async def _who_blocks(self) -> str:
        """Whom our session waits for, asked on another session while it waits; empty when it does not wait.

        An autovacuum is asked to stop, as PostgreSQL does itself for whoever waits longer than ``deadlock_timeout``,
        which we never do. It comes back later by itself.
        """
        with suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as other:
                pid = self.connection.info.backend_pid
                end = time.monotonic() + LONGEST_PAUSE + self.lock_timeout_ms / 1000
                while time.monotonic() < end:
                    rows = await (await other.execute(query("locks", "blockers"), {"pid": pid})).fetchall()
                    if rows:
                        for process, *_, can_be_stopped in rows:
                            if can_be_stopped:
                                # Not everybody may: then it is waited for as for anybody else.
                                await other.execute(query("locks", "cancel"), {"pid": process})
                        return _in_words([row[:4] for row in rows])
                    await asyncio.sleep(self.lock_timeout_ms / 5000)
        return ""

    async def _who_holds(self) -> str:
        """Who holds a lock on the table now: for a wait that was over before it could be asked about."""
        return _in_words(await (await self.connection.execute(query("locks", "table_holders"))).fetchall())


class RegistryChange:
    """A planned change; see ``domain.changes.SchemaChange``."""

    def __init__(self, session: Session, planned: Planned) -> None:
        self._session = session
        self._planned = planned

    @property
    def outline(self) -> Outline:
        steps = [OutlineStep(title=step.title, statements=_statements(step)) for step in self._planned.steps]
        index = self._planned.index
        if index is not None and index.statements:
            title = "vector index (outside of a transaction: the registry stays open)"
            steps.append(OutlineStep(title=title, statements=_described(index.statements)))
        plans = [step.plan for step in self._planned.steps]
        return _outline(steps, plans, self._planned.questions)

    async def execute(self, progress: Progress) -> None:
        """Raises LockBusyError naming who is in the way when a lock cannot be had for ``wait_timeout`` seconds."""
        with database_errors():
            for step in self._planned.steps:
                await self._session.patiently(lambda step=step: self._once(step), progress)  # type: ignore[misc]  # mypy cannot type a lambda's default
            if self._planned.index is not None:
                await self._planned.index.execute(self._session.conninfo, progress)

    async def _once(self, step: Step) -> None:
        session = self._session
        if step.file is None:
            if step.plan.statements:
                await session.run(step.plan)
            return
        run = apply_one if step.direction == "apply" else rollback_one
        await asyncio.to_thread(run, session.conninfo, session.lock_timeout_ms, step.file, step.plan)
        applied = step.file.id in (await read_state(session.connection)).applied
        if applied != (step.direction == "apply"):
            raise StateError(f"migration {step.file.id} was not recorded", hint="Run the command again.")


class RegistryCutover:
    """The swap of the current and the building generation; see ``domain.changes.CutoverChange``."""

    def __init__(self, session: Session, state: RegistryState) -> None:
        self._session = session
        self._state = state
        self._plan = plan_cutover(state)
        self.already_done = Role.BUILDING not in state.generations
        former, present = Role.CURRENT, Role.BUILDING
        if self.already_done:
            former, present = Role.PREVIOUS, Role.CURRENT
        self.generation: Generation = state.generations[present]
        self.current: Generation = state.generations[former]

    @property
    def outline(self) -> Outline:
        step = OutlineStep(title="cutover", statements=_described(self._plan.statements))
        return _outline([step], [self._plan], ())

    async def watch_changes(self, progress: Progress) -> None:
        """From now on, write down which tools the server touches; when this returns, no writer is unwatched."""
        with database_errors():
            plan = online.keep_log(self._state)
            await self._session.patiently(lambda: self._session.run(plan), progress)

    async def execute(self, progress: Progress, *, check: bool = True) -> float:
        """Swap, in one transaction under the table's lock; returns the seconds of the attempt that succeeded.

        With ``check`` raises ChangedMeanwhileError, nothing done, when a tool that was touched has no fresh vector.
        """
        took = 0.0
        unless_stale = online.refuse_if_stale(self._session.connection, self.generation) if check else None

        async def attempt() -> None:
            nonlocal took
            started = time.perf_counter()
            await self._session.run(self._plan, unless_stale)
            took = time.perf_counter() - started

        with database_errors():
            try:
                await self._session.patiently(attempt, progress)
            except psycopg.Error as exc:
                if exc.sqlstate == online.STALE_SQLSTATE:
                    raise ChangedMeanwhileError("tools have changed since they were caught up") from exc
                raise
        return took

    async def give_up(self, progress: Progress) -> None:
        """Watch no longer. Where readers hold the table the trigger is only put to sleep, which they do not notice; the
        next command that changes the registry clears it up.
        """
        try:
            await self._end(online.end_log(self._state), progress)
        except LockBusyError:
            await self._end(online.pause_log(self._state), progress)

    async def _end(self, plan: Plan, progress: Progress) -> None:
        with database_errors():
            await self._session.patiently(lambda: self._session.run(plan), progress, patience=PATIENCE_AT_THE_END)


def _outline(steps: list[OutlineStep], plans: Sequence[Plan], questions: Sequence[str]) -> Outline:
    lost = [loss for plan in plans for loss in plan.losses]
    return Outline(
        steps=steps,
        losses=[loss.phrase for loss in lost],
        lost=lost,
        retires=[phrase for plan in plans for phrase in plan.retires],
        notes=[note for plan in plans for note in plan.notes],
        dependents=list(dict.fromkeys(phrase for plan in plans for phrase in plan.hindrances)),
        questions=list(questions),
    )


def _in_words(rows: Sequence[tuple[int, str, str, float]]) -> str:
    return "; ".join(
        f"server process {pid} ({name or 'no name'}, {state}, for {age:.0f} s)" for pid, name, state, age in rows
    )


def _statements(step: Step) -> list[OutlineStatement]:
    if step.file is not None and not step.plan.statements:
        # There is still its mark to write, so the change is not an empty one.
        done = "applied" if step.direction == "apply" else "undone"
        return [OutlineStatement(sql="-- no statement is needed", purpose=f"the schema is so: record it as {done}")]
    return _described(step.plan.statements)


def _described(statements: Sequence[Statement]) -> list[OutlineStatement]:
    return [OutlineStatement(sql=statement.text(), purpose=statement.purpose) for statement in statements]
