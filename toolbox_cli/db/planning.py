"""From the registry as found to the steps of a change: which plans, in which order, in which transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from toolbox_cli.db import online, plans
from toolbox_cli.db.drafts import Plan, Statement, nothing
from toolbox_cli.db.index_builds import IndexBuild, plan_index
from toolbox_cli.db.state import RegistryState
from toolbox_cli.db.text_index import text_index_statements
from toolbox_cli.db.yoyo_runner import MigrationFile, load_migrations
from toolbox_cli.domain.errors import InvalidUsageError, StateError
from toolbox_cli.domain.models import Generation, Role, Target

AT_ONCE = "change of the embedding space, at once"
ONLINE = "a second generation, beside the one that search reads"


@dataclass(frozen=True)
class Step:
    """One transaction of a change; ``file`` says which migration it belongs to."""

    title: str
    plan: Plan
    file: MigrationFile | None = None
    direction: Literal["apply", "rollback"] = "apply"


@dataclass(frozen=True)
class Planned:
    """The steps of a change, the index build that follows them, and what is asked before: nothing that is lost."""

    steps: Sequence[Step]
    index: IndexBuild | None = None
    questions: tuple[str, ...] = ()


def plan_migrate(state: RegistryState, target: Target) -> Planned:
    """What brings the registry to this target: pending migrations, a change of the generation, the index."""
    steps, simulated = _pending(state, target)
    generation = state.generations.get(Role.CURRENT)
    if generation is not None:
        changes, generation = _change_generation(simulated, generation, target)
        steps += changes
    elif simulated.dimension_of(Role.CURRENT) != target.space.dimension:
        # 002 was applied long ago, for another dimension, and only later migrations were pending.
        steps.append(Step(AT_ONCE, plans.retire_current(simulated, target)))
    elif "embedding_generations" in state.tables:
        steps.append(Step("record of the current generation", plans.record_current(simulated, target)))
    simulated = steps[-1].plan.after if steps else state
    return Planned(_tidied(state, steps), _with_text_index(state, plan_index(simulated, target, generation)))


def plan_online(state: RegistryState, target: Target) -> Planned:
    """What prepares a second generation: pending migrations that leave the column as it is, then the shadow column."""
    generation = state.generations.get(Role.CURRENT)
    if not state.has_tools:
        return plan_migrate(state, target)
    dimension = state.dimension_of(Role.CURRENT)
    if dimension is None:
        state.check_registry()
        raise StateError(
            f"tools.embedding is {state.columns[Role.CURRENT.column]}, a type without a dimension",
            hint="Change it at once: `toolbox migrate` without --online keeps its vectors.",
        )
    steps, simulated = _pending(state, online.adoption_target(target, dimension))
    if generation is not None and dimension != generation.dimension:
        plan = plans.disown_current(simulated, generation)
        steps.append(Step("record of the current generation", plan))
        simulated, generation = plan.after, plan.after.generations[Role.CURRENT]
    if generation is not None and plans.signature(generation.space) == plans.signature(target.space):
        plan = plans.update_service(simulated, generation, target)
        steps += [Step("service of the current generation", plan)] if plan.statements else []
        return Planned(_tidied(state, steps), _with_text_index(state, None))
    if generation is None and "embedding_generations" in state.tables:
        adopted = online.adoption_target(target, dimension)
        plan = plans.record_current(simulated, adopted)
        steps.append(Step("record of the current generation", plan))
        simulated = plan.after
    plan = online.begin_building(simulated, target)
    if plan.statements:
        steps.append(Step(ONLINE, plan))
    return Planned(_tidied(state, steps), _with_text_index(state, None))


def plan_cutover(state: RegistryState) -> Plan:
    """The building generation takes the name over; nothing where it has done so before.

    Raises StateError when none is being built, and none was before this one.
    """
    state.require_generation(Role.CURRENT)
    if Role.BUILDING in state.generations:
        plan = plans.bring_forward(state)
        return plan.then(online.end_log(plan.after))
    if Role.PREVIOUS in state.generations:
        return nothing(state)
    raise StateError(
        "no new generation is being built", hint="Begin with `toolbox migrate --online --model M --dimension N`."
    )


def plan_rollback(state: RegistryState, to: str | None) -> Planned:
    """Without ``to``: one step back, from the last one. With it: undo the migrations after it (all for zero)."""
    if to is None:
        return _plan_step_back(state)
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
    return Planned(_tidied(state, steps), index)


def plan_prune(state: RegistryState) -> Planned:
    """Free what was kept for a roll back: the previous column, and one that was set aside."""
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
    return Planned(_tidied(state, steps))


def _pending(state: RegistryState, target: Target) -> tuple[list[Step], RegistryState]:
    """The migrations that are not applied yet, and the state that they lead to."""
    steps: list[Step] = []
    simulated = state
    for file in load_migrations():
        if file.id not in state.applied:
            plan = file.module.upgrade(simulated, target)
            steps.append(Step(f"migration {file.id}", plan, file))
            simulated = plan.after
    return steps, simulated


def _with_text_index(state: RegistryState, build: IndexBuild | None) -> IndexBuild:
    """The builds that follow a migration. It has made the function that the text index is built with."""
    build = build or IndexBuild()
    return replace(build, statements=(*build.statements, *text_index_statements(state)))


def _tidied(state: RegistryState, steps: list[Step]) -> list[Step]:
    """The steps, after those that clear up what commands have left that were killed."""
    before: list[Step] = []
    if state.lock_row:
        row = Statement(sql.SQL("DELETE FROM yoyo_lock"), "clear the lock of a migration that was killed")
        before.append(Step("clear up after an interrupted migration", Plan((row,), state)))
    if "embedding_changes" in state.tables:
        before.append(Step("clear up after an interrupted cutover", online.end_log(state)))
    return before + steps


def _change_generation(state: RegistryState, generation: Generation, target: Target) -> tuple[list[Step], Generation]:
    """The steps to the target, and the generation whose kind of index the current column gets."""
    building = state.generations.get(Role.BUILDING)
    wanted = plans.signature(target.space)
    altered = state.dimension_of(Role.CURRENT) != generation.dimension
    if wanted == plans.signature(generation.space) and not altered:
        plan = plans.update_service(state, generation, target)
        return ([Step("service of the current generation", plan)] if plan.statements else []), generation
    if building is not None and building.rolled_back_at is not None and plans.holds(state, Role.BUILDING, target.space):
        plan = plans.bring_forward(state)
        plan = plan.then(plans.update_service(plan.after, building, target))
        return [Step("bring the embeddings that were set aside back", plan)], building
    if building is not None and building.rolled_back_at is None:
        raise StateError(
            f"a new generation is being built ({building.model}, {building.dimension} dimensions)",
            hint="End that first: `toolbox cutover`, or `toolbox rollback` to abandon it.",
        )
    plan = plans.disown_current(state, generation) if altered else nothing(state)
    previous = state.generations.get(Role.PREVIOUS)
    if previous is not None and plans.holds(state, Role.PREVIOUS, target.space):
        # Its vectors are there, and must not be dropped to be paid for again.
        plan = plan.then(plans.exchange(plan.after))
        plan = plan.then(plans.update_service(plan.after, previous, target))
        return [Step("back to the previous generation", plan)], previous
    return [Step(AT_ONCE, plan.then(plans.retire_current(plan.after, target)))], generation


def _plan_step_back(state: RegistryState) -> Planned:
    current = state.require_generation(Role.CURRENT)
    building, previous = state.generations.get(Role.BUILDING), state.generations.get(Role.PREVIOUS)
    questions: tuple[str, ...] = ()
    if building is not None and building.rolled_back_at is None and building.activated_at is not None:
        # Search has read it before, and what it was taken up from is gone: it is kept, as it was then.
        step = Step("set the generation being built aside again", plans.set_aside(state, building))
    elif building is not None and building.rolled_back_at is None:
        plan = plans.drop_role(state, Role.BUILDING, "the generation being built is abandoned")
        step = Step("abandon the generation being built", plan)
    elif previous is not None:
        step = Step("back to the previous generation", plans.swap_back(state))
        if state.abandoned_at is not None:
            # A roll back that was killed before it said what it had done must not go further when it is repeated.
            when = f"{state.abandoned_at:%Y-%m-%d %H:%M:%S} UTC"
            questions = (
                f"the generation that was being built has been abandoned already, at {when}; this goes one step further"
                f" back, from {_named(current)} to {_named(previous)}",
            )
    elif building is not None:
        note = (
            "already rolled back: the other embeddings are set aside (`toolbox migrate` to them brings them back,"
            " `toolbox prune` drops them)"
        )
        return Planned(_tidied(state, [Step("nothing", Plan((), state, notes=(note,)))]))
    elif state.abandoned_at is not None:
        note = "already rolled back: the generation that was being built has been abandoned"
        return Planned(_tidied(state, [Step("nothing", Plan((), state, notes=(note,)))]))
    else:
        raise StateError(
            "there is no previous generation to go back to",
            hint="`toolbox status` shows what there is; `toolbox rollback --to 001` undoes migrations.",
        )
    back = current if building is not None and building.rolled_back_at is None else previous
    return Planned(_tidied(state, [step]), plan_index(step.plan.after, None, back), questions)


def _named(generation: Generation) -> str:
    return f"{generation.model or 'an unknown model'}, {generation.dimension} dimensions"
