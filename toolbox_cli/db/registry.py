"""The registry's schema: plans changes from the state as found, and carries them out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import errors as pg
from psycopg import sql

from toolbox_cli.db import plans
from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.index_builds import IndexBuild, plan_index
from toolbox_cli.db.locks import registry_lock
from toolbox_cli.db.plans import Plan, Statement
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.state import RegistryState, read_state
from toolbox_cli.db.workers import check_session
from toolbox_cli.db.yoyo_runner import MigrationFile, apply_one, load_migrations, rollback_one
from toolbox_cli.domain.changes import Outline, OutlineStatement, OutlineStep
from toolbox_cli.domain.errors import DatabaseError, InvalidUsageError, LockBusyError, StateError
from toolbox_cli.domain.models import Generation, Role, ServerInfo, Target

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress

#: pgvector that has every type and operator class we use: halfvec, bit and binary_quantize came with 0.7.0.
MINIMUM_PGVECTOR = (0, 7)
#: PostgreSQL 14 is the oldest major version that is still maintained.
MINIMUM_SERVER = 140_000


@dataclass(frozen=True)
class Step:
    """One transaction of a change, or one vacuum-like follow-up; ``file`` says which migration it belongs to."""

    title: str
    plan: Plan
    file: MigrationFile | None = None
    direction: Literal["apply", "rollback"] = "apply"


class Registry:
    """One session for reading state and holding the lock; DDL runs on sessions of its own."""

    def __init__(
        self,
        conninfo: str,
        connection: psycopg.AsyncConnection,
        *,
        lock_timeout_ms: int,
        wait_timeout: float,
        embedded: bool,
    ) -> None:
        self.conninfo = conninfo
        self.connection = connection
        self.lock_timeout_ms = lock_timeout_ms
        self.wait_timeout = wait_timeout
        self._embedded = embedded

    @asynccontextmanager
    async def exclusive_lock(self) -> AsyncIterator[None]:
        """No other command changes or fills the registry meanwhile.

        Raises LockBusyError naming who is at work, StateError for a pooler that would lose the lock between two
        statements.
        """
        with database_errors():
            second = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
        async with second:
            await check_session(self.connection, second)
        async with registry_lock(self.connection, wait_seconds=self.wait_timeout):
            yield

    async def state(self, *, count: bool = False) -> RegistryState:
        with database_errors():
            return await read_state(self.connection, count=count)

    async def current(self) -> Generation | None:
        return (await self.state()).generations.get(Role.CURRENT)

    async def server(self) -> ServerInfo:
        with database_errors():
            row = always(await (await self.connection.execute(query("schema", "server"))).fetchone())
        return ServerInfo(
            server_version=row[0],
            server_version_number=row[1],
            pgvector_version=row[2],
            embedded=self._embedded,
        )

    async def dependents(self, columns: Collection[str]) -> list[str]:
        """Views that read one of these columns, in words."""
        with database_errors():
            rows = await (await self.connection.execute(query("schema", "dependents"))).fetchall()
        return [f"{kind} {name} (column {column})" for name, kind, column in rows if column in columns]

    async def check_server(self) -> None:
        """Raise unless the server can hold a registry: version, and pgvector installed or installable."""
        with database_errors():
            row = always(await (await self.connection.execute(query("schema", "server"))).fetchone())
        version, number, installed, available = row
        if number < MINIMUM_SERVER:
            raise DatabaseError(f"the server is PostgreSQL {version}, expected 14 or later", hint="Upgrade the server.")
        if installed is None and available is None:
            raise DatabaseError(
                "the server has no pgvector: the extension 'vector' is not available",
                hint="Install pgvector 0.7 or later on the server (e.g. the package postgresql-NN-pgvector).",
            )
        found = installed or available
        if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_PGVECTOR:
            raise DatabaseError(
                f"pgvector is {found}, expected 0.7 or later",
                hint="Upgrade it on the server, then ALTER EXTENSION vector UPDATE.",
            )

    async def plan_migrate(self, target: Target) -> RegistryChange:
        """What brings the registry to this target: pending migrations, a change of the generation, the index."""
        await self.check_server()
        state = await self.state(count=True)
        steps: list[Step] = []
        simulated = state
        for file in load_migrations():
            if file.id not in state.applied:
                plan = file.module.upgrade(simulated, target)
                steps.append(Step(f"migration {file.id}", plan, file))
                simulated = plan.after
        generation = state.generations.get(Role.CURRENT)
        if generation is not None:
            changes, generation = self._change_generation(simulated, generation, target)
            steps.extend(changes)
        elif simulated.dimension_of(Role.CURRENT) != target.space.dimension:
            # 002 was applied long ago, for another dimension, and only later migrations were pending.
            plan = plans.retire_current(simulated, target)
            steps.append(Step("change of the embedding space, at once", plan))
        elif "embedding_generations" in state.tables:
            steps.append(Step("record of the current generation", plans.record_current(simulated, target)))
        simulated = steps[-1].plan.after if steps else state
        index = plan_index(simulated, target, generation)
        return RegistryChange(self, steps, index, await self._dependents_of(steps))

    def _change_generation(
        self, state: RegistryState, generation: Generation, target: Target
    ) -> tuple[list[Step], Generation]:
        """The steps to the target, and the generation whose kind of index the current column gets."""
        building = state.generations.get(Role.BUILDING)
        wanted = plans.signature(target.space)
        altered = state.dimension_of(Role.CURRENT) != generation.dimension
        if wanted == plans.signature(generation.space) and not altered:
            plan = plans.update_service(state, generation, target)
            return ([Step("service of the current generation", plan)] if plan.statements else []), generation
        if building is not None and building.rolled_back_at is not None and wanted == plans.signature(building.space):
            plan = plans.bring_forward(state)
            plan = plan.then(plans.update_service(plan.after, building, target))
            return [Step("bring the embeddings that were set aside back", plan)], building
        if building is not None and building.rolled_back_at is None:
            raise StateError(
                f"a new generation is being built ({building.model}, {building.dimension} dimensions)",
                hint="End that first: `toolbox cutover`, or `toolbox rollback` to abandon it.",
            )
        if altered:
            plan = plans.disown_current(state, generation)
            plan = plan.then(plans.retire_current(plan.after, target))
        else:
            plan = plans.retire_current(state, target)
        return [Step("change of the embedding space, at once", plan)], generation

    async def plan_rollback(self, to: str | None) -> RegistryChange:
        """Without ``to``: back to the previous generation. With it: undo the migrations after it (all for zero)."""
        state = await self.state(count=True)
        if to is None:
            return await self._plan_swap(state)
        files = load_migrations()
        numbers = ["zero", *(file.number for file in files)]
        if to not in numbers:
            raise InvalidUsageError(f"--to is {to!r}, expected one of {', '.join(numbers)}")
        steps: list[Step] = []
        simulated = state
        for file in reversed(files[numbers.index(to) :]):
            if file.id in state.applied:
                plan = file.module.downgrade(simulated)
                steps.append(Step(f"undo migration {file.id}", plan, file, "rollback"))
                simulated = plan.after
        index = plan_index(simulated, None, state.generations.get(Role.CURRENT)) if steps else None
        return RegistryChange(self, steps, index, await self._dependents_of(steps))

    async def _plan_swap(self, state: RegistryState) -> RegistryChange:
        state.require_generation(Role.CURRENT)
        building = state.generations.get(Role.BUILDING)
        if Role.PREVIOUS in state.generations:
            steps = [Step("back to the previous generation", plans.swap_back(state))]
        elif building is not None and building.rolled_back_at is None:
            plan = plans.drop_role(state, Role.BUILDING, "the generation being built is abandoned")
            steps = [Step("abandon the generation being built", plan)]
        elif building is not None:
            note = "already rolled back: the newer embeddings are set aside (`toolbox prune` drops them)"
            return RegistryChange(self, [Step("nothing", Plan((), state, notes=(note,)))], None, [])
        else:
            raise StateError(
                "there is no previous generation to go back to",
                hint="`toolbox status` shows what there is; `toolbox rollback --to 001` undoes migrations.",
            )
        after = steps[-1].plan.after
        back = state.generations.get(Role.PREVIOUS, state.generations[Role.CURRENT])
        index = plan_index(after, None, back)
        return RegistryChange(self, steps, index, await self._dependents_of(steps))

    async def plan_prune(self) -> RegistryChange:
        """Free what was kept for a roll back: the previous column, and one that was set aside."""
        state = await self.state(count=True)
        state.require_generation(Role.CURRENT)
        steps: list[Step] = []
        simulated = state
        building = state.generations.get(Role.BUILDING)
        roles = [Role.PREVIOUS]
        if building is None or building.rolled_back_at is not None:
            roles.append(Role.BUILDING)
        for role in roles:
            if role.column in simulated.columns:
                plan = plans.drop_role(simulated, role, "the column is not needed any more")
                steps.append(Step(f"free {role.column}", plan))
                simulated = plan.after
        return RegistryChange(self, steps, None, await self._dependents_of(steps))

    async def _dependents_of(self, steps: Sequence[Step]) -> list[str]:
        moved: set[str] = set()
        for step in steps:
            moved |= step.plan.moves
        return await self.dependents(moved) if moved else []

    async def run_plan(self, plan: Plan) -> None:
        """Execute a plan in one short transaction.

        On the session that holds the registry's lock: who loses the lock has by the same event lost the means to
        change anything.
        """
        async with self.connection.transaction():
            timeout = sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(self.lock_timeout_ms))
            await self.connection.execute(timeout)
            for statement in plan.statements:
                await self.connection.execute(statement.sql)


class RegistryChange:
    """A planned change; see ``domain.changes.SchemaChange``."""

    def __init__(
        self,
        registry: Registry,
        steps: Sequence[Step],
        index: IndexBuild | None,
        dependents: Sequence[str],
    ) -> None:
        self._registry = registry
        self._steps = steps
        self._index = index
        self._dependents = dependents

    @property
    def outline(self) -> Outline:
        steps = [OutlineStep(title=step.title, statements=_statements(step)) for step in self._steps]
        if self._index is not None and self._index.statements:
            title = "vector index (outside of a transaction: the registry stays open)"
            steps.append(OutlineStep(title=title, statements=_described(self._index.statements)))
        return Outline(
            steps=steps,
            losses=[loss for step in self._steps for loss in step.plan.losses],
            retires=[phrase for step in self._steps for phrase in step.plan.retires],
            notes=[note for step in self._steps for note in step.plan.notes],
            dependents=list(self._dependents),
        )

    async def execute(self, progress: Progress) -> None:
        """Raises LockBusyError naming who is in the way when a lock cannot be had for ``wait_timeout`` seconds."""
        with database_errors():
            for step in self._steps:
                await self._patiently(step)
            if self._index is not None:
                await self._index.execute(self._registry.conninfo, progress)

    async def _patiently(self, step: Step) -> None:
        """Try again while traffic holds the table: a DDL statement that queues would block everybody behind it."""
        registry = self._registry
        deadline = time.monotonic() + registry.wait_timeout
        pause = 0.05
        while True:
            try:
                await self._once(step)
            except (pg.LockNotAvailable, LockBusyError) as exc:
                if time.monotonic() > deadline:
                    raise LockBusyError(
                        f"the table 'tools' could not be locked within {registry.wait_timeout:g} s: "
                        f"{await blockers(registry.connection)}",
                        hint="Nothing of this step was done. Run it again when that session has ended its transaction.",
                    ) from exc
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return

    async def _once(self, step: Step) -> None:
        registry = self._registry
        if step.file is None:
            await registry.run_plan(step.plan)
            return
        run = apply_one if step.direction == "apply" else rollback_one
        await asyncio.to_thread(run, registry.conninfo, registry.lock_timeout_ms, step.file, step.plan)
        applied = step.file.id in (await registry.state()).applied
        if applied != (step.direction == "apply"):
            raise StateError(f"migration {step.file.id} was not recorded", hint="Run the command again.")


async def blockers(connection: psycopg.AsyncConnection) -> str:
    """Who holds locks on the table, in words."""
    rows = await (await connection.execute(query("locks", "table_holders"))).fetchall()
    if not rows:
        return "whoever held it has just gone"
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
