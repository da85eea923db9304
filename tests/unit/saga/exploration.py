"""Every way a small saga can go: each answer of each call, each crash, a rival coordinator, a cancel, late messages,
and whatever an operator may do with one that is parked.

A node of the graph is what the log holds, what each running coordinator has in memory, and what the participants did.
Coordinators follow the machine; participants follow the barrier's contract. The edges are everything the world may do
next. A coordinator's lines are durable at once until the world decides that they lag; then they are lost if it dies
before it writes again. Operators prove only what is true.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from libs.saga import machine
from libs.saga.definition import Kind, Saga
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    EndForced,
    FaultKind,
    Resumed,
    Skipped,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDone,
    UndoFailed,
)
from libs.saga.machine import Action, Do, Phase, Record, State, Undo

DONE, REFUSED, SUSPENDED = "done", "refused", "suspended"
PARKED = frozenset({Phase.PARKED_COMMITTING, Phase.PARKED_UNDOING})


class Effect(NamedTuple):
    """What one participant holds of one step: the do's row, its undo, and a do that is still on its way."""

    row: str = ""
    undone: bool = False
    late: bool = False

    @property
    def stands(self) -> bool:
        return self.row == DONE and not self.undone


World = tuple[Effect, ...]


class Coordinator(NamedTuple):
    """One run of the saga. `first`: nobody wrote to the log since it last read or wrote it."""

    state: int
    todo: tuple[Action, ...] = ()
    answers: tuple[AnyEntry, ...] = ()
    lags: bool = False
    first: bool = True


class Budget(NamedTuple):
    """How often each misfortune may still happen."""

    crashes: int = 0
    rivals: int = 0
    cancels: int = 0
    resumes: int = 0
    skips: int = 0
    forced: int = 0


NO_MISFORTUNE = Budget()


class Node(NamedTuple):
    log: int
    coordinators: tuple[Coordinator, ...]
    world: World
    budget: Budget


@dataclass(frozen=True, slots=True)
class Rules:
    """The machine under test; a test plants a bug by replacing one of them."""

    apply: Callable[[State, AnyEntry], State] = machine.apply
    skippable: Callable[[Saga, State], tuple[str, ...]] = machine.skippable
    next_actions: Callable[[Saga, State], tuple[Action, ...]] = machine.next_actions
    says_when_it_takes_over: bool = True


class Violation(AssertionError):
    """Something the machine promises did not hold."""


@dataclass
class Exploration:
    """Visits every node once. `answers` fixes which steps are refused; None lets each go either way.

    `faults`: calls may fail. Raises Violation at the first broken promise.
    """

    saga: Saga
    budget: Budget = NO_MISFORTUNE
    answers: Mapping[str, str] | None = None
    faults: bool = True
    rules: Rules = field(default_factory=Rules)
    ends: set[tuple[str, tuple[bool, ...]]] = field(default_factory=set)
    visited: int = 0

    def __post_init__(self) -> None:
        self._names = [step.name for step in self.saga.steps]
        self._states: list[State] = []
        self._ids: dict[object, int] = {}

    def run(self) -> "Exploration":
        began = self._id(self.rules.apply(State(), Started()))
        root = Node(began, (Coordinator(began),), (Effect(),) * len(self._names), self.budget)
        open_nodes: set[Node] = set()
        seen = {root}
        stack: list[tuple[Node, Iterator[Node]]] = [(root, self._after(root))]
        open_nodes.add(root)
        while stack:
            node, following = stack[-1]
            successor = next(following, None)
            if successor is None:
                open_nodes.remove(node)
                stack.pop()
            elif successor in open_nodes:
                raise Violation(f"it may go round for ever: {self._told(successor)}")
            elif successor not in seen:
                self._check(successor)
                seen.add(successor)
                open_nodes.add(successor)
                stack.append((successor, self._after(successor)))
        self.visited = len(seen)
        return self

    def _after(self, node: Node) -> Iterator[Node]:
        progress = [*self._coordinators_go_on(node), *self._somebody_begins(node)]
        misfortune = [*self._crashes(node), *self._cancels(node), *self._late_messages(node)]
        if not progress:
            self._check_end(node)
        yield from progress
        yield from misfortune

    def _coordinators_go_on(self, node: Node) -> Iterator[Node]:
        for at, one in enumerate(node.coordinators):
            todo = one.todo or self.rules.next_actions(self.saga, self._states[one.state])
            if not todo:
                yield self._gone(node, at)
            elif isinstance(todo[0], Record):
                noted = self._id(self.rules.apply(self._states[one.state], todo[0].entry))
                yield self._wrote(node, at, one._replace(state=noted))
            else:
                for world, entry in self._tried(node.world, todo[0]):
                    tried = one._replace(todo=todo[1:], answers=(*one.answers, entry))
                    yield self._noted(node._replace(world=world), at, tried)
            if one.lags and one.state != node.log:
                yield self._wrote(node, at, one)

    def _noted(self, node: Node, at: int, one: Coordinator) -> Node:
        """A round of tries is noted when the last of them is answered."""
        if one.todo:
            return self._with(node, at, one)
        state = self._states[one.state]
        for entry in one.answers:
            state = self.rules.apply(state, entry)
        one = one._replace(state=self._id(state), answers=())
        return self._with(node, at, one) if one.lags else self._wrote(node, at, one)

    def _wrote(self, node: Node, at: int, one: Coordinator) -> Node:
        """The log takes the lines of a coordinator that wrote last; any other finds out and stops."""
        if not one.first:
            return self._gone(node, at)
        others = tuple(
            one if index == at else other._replace(first=False) for index, other in enumerate(node.coordinators)
        )
        return node._replace(log=one.state, coordinators=others)

    def _somebody_begins(self, node: Node) -> Iterator[Node]:
        log = self._states[node.log]
        if log.phase in PARKED:
            # Who ran it and was overtaken may still be at it: its lines are not taken any more, its calls are made.
            overtaken = tuple(one._replace(first=False) for one in node.coordinators)
            for entry, budget in self._verbs(node, log):
                written = self._id(self.rules.apply(log, entry))
                yield Node(written, overtaken, node.world, budget)
        elif not node.coordinators and self.rules.next_actions(self.saga, log):
            yield self._taken_up(node)

    def _verbs(self, node: Node, log: State) -> Iterator[tuple[AnyEntry, Budget]]:
        """What an operator may write into the log of a parked saga."""
        budget = node.budget
        if budget.resumes:
            yield Resumed("ops", "fixed"), budget._replace(resumes=budget.resumes - 1)
        if budget.forced:
            yield EndForced("ops", "enough"), budget._replace(forced=budget.forced - 1)
        for step in self.rules.skippable(self.saga, log) if budget.skips else ():
            if self._is_proven(node, step, log.phase):
                yield Skipped(step, "ops", "by hand", "seen"), budget._replace(skips=budget.skips - 1)

    def _is_proven(self, node: Node, step: str, phase: Phase) -> bool:
        """Of a step to be done: it stands. Of a step to be undone: it does not, and nobody can still send it."""
        effect = node.world[self._names.index(step)]
        if phase is Phase.PARKED_COMMITTING:
            return effect.stands
        return not effect.stands and (bool(effect.row) or not (effect.late or node.coordinators))

    def _taken_up(self, node: Node) -> Node:
        """Who takes over says so in the log before doing anything: from then on nobody else can write to it."""
        taken_up = Coordinator(self._id(self.rules.apply(self._states[node.log], TakenUp("another"))))
        joined = node._replace(coordinators=(*node.coordinators, taken_up))
        return self._wrote(joined, len(node.coordinators), taken_up) if self.rules.says_when_it_takes_over else joined

    def _crashes(self, node: Node) -> Iterator[Node]:
        budget = node.budget
        for at, one in enumerate(node.coordinators):
            if budget.crashes:
                yield self._gone(node, at)._replace(budget=budget._replace(crashes=budget.crashes - 1))
            if not one.lags and (budget.crashes or budget.rivals):
                yield self._with(node, at, one._replace(lags=True))
        if budget.rivals and node.coordinators and self.rules.next_actions(self.saga, self._states[node.log]):
            yield self._taken_up(node)._replace(budget=budget._replace(rivals=budget.rivals - 1))

    def _cancels(self, node: Node) -> Iterator[Node]:
        if node.budget.cancels:
            spent = node._replace(budget=node.budget._replace(cancels=node.budget.cancels - 1))
            for at, one in enumerate(node.coordinators):
                state = self.rules.apply(self._states[one.state], CancelRequested("changed my mind"))
                yield self._with(spent, at, one._replace(state=self._id(state)))

    def _late_messages(self, node: Node) -> Iterator[Node]:
        for at, effect in enumerate(node.world):
            if effect.late:
                arrived = _replaced(node.world, at, effect._replace(late=False))
                for world in self._do(arrived, at):
                    yield node._replace(world=world)

    def _tried(self, world: World, action: Action) -> Iterator[tuple[World, AnyEntry]]:
        assert isinstance(action, Do | Undo)
        at = self._names.index(action.step)
        if isinstance(action, Undo):
            undone = _replaced(world, at, _undo(world[at]))
            yield undone, UndoDone(action.step)
            if self.faults:
                lost = UndoFailed(action.step, action.attempt, "no answer")
                yield undone, lost
                yield world, lost
            return
        in_doubt = StepFailed(action.step, action.attempt, FaultKind.IN_DOUBT, "no answer")
        for done in self._do(world, at):
            yield done, _answer(action.step, done[at])
            if self.faults:
                yield done, in_doubt
        if self.faults:
            yield world, StepFailed(action.step, action.attempt, FaultKind.UNAVAILABLE, "closed")
            yield _replaced(world, at, world[at]._replace(late=True)), in_doubt

    def _do(self, world: World, at: int) -> Iterator[World]:
        effect = world[at]
        if effect.row:
            yield world
            return
        given = (self.answers or {}).get(self._names[at])
        may_refuse = self.saga.steps[at].kind is not Kind.RETRIABLE
        for row in [given] if given else [DONE, *[REFUSED] * may_refuse]:
            yield _replaced(world, at, effect._replace(row=row))

    def _check(self, node: Node) -> None:
        """Once something that cannot be undone was done, nothing may be undone, nor the other way round."""
        decided = [at for at, step in enumerate(self.saga.steps) if step.kind is not Kind.COMPENSATABLE]
        if any(node.world[at].row == DONE for at in decided) and any(effect.undone for effect in node.world):
            raise Violation(f"undone although the pivot is done: {self._told(node)}")

    def _check_end(self, node: Node) -> None:
        log = self._states[node.log]
        standing = tuple(effect.stands for effect in node.world)
        match log.phase:
            case Phase.ENDED if log.outcome == machine.COMPLETED:
                self._expect(all(standing), "completed, but something is missing", node)
            case Phase.ENDED if log.outcome == machine.FORCED:
                pass  # whatever was done stays, and whatever was undone
            case Phase.ENDED:
                self._expect(not any(standing), "undone, but something stands", node)
                waiting = any(effect.late and not effect.row for effect in node.world)
                self._expect(not waiting, "undone, but a late message can still do something", node)
            case Phase.PARKED_COMMITTING | Phase.PARKED_UNDOING:
                self._expect(bool(log.parked), "parked without a reason", node)
            case _:
                raise Violation(f"it neither ended nor was it parked: {self._told(node)}")
        self.ends.add((log.outcome or "parked", standing))

    def _expect(self, holds: bool, otherwise: str, node: Node) -> None:
        if not holds:
            raise Violation(f"{otherwise}: {self._told(node)}")

    def _told(self, node: Node) -> str:
        world = ", ".join(f"{name} {effect}" for name, effect in zip(self._names, node.world, strict=True))
        running = [self._states[one.state] for one in node.coordinators]
        return f"log {self._states[node.log]}; running {running}; world {world}"

    def _with(self, node: Node, at: int, one: Coordinator) -> Node:
        return node._replace(coordinators=_replaced(node.coordinators, at, one))

    def _gone(self, node: Node, at: int) -> Node:
        return node._replace(coordinators=node.coordinators[:at] + node.coordinators[at + 1 :])

    def _id(self, state: State) -> int:
        key = (
            state.phase,
            tuple(sorted(state.steps.items())),
            state.lagging,
            state.undo,
            state.cancel,
            state.parked,
            state.outcome,
        )
        if key not in self._ids:
            self._ids[key] = len(self._states)
            self._states.append(state)
        return self._ids[key]


def _undo(effect: Effect) -> Effect:
    if not effect.row:
        return effect._replace(row=SUSPENDED)
    return effect._replace(undone=effect.row == DONE)


def _answer(step: str, effect: Effect) -> AnyEntry:
    return StepDone(step) if effect.row == DONE else StepRefused(step, effect.row, "no")


def _replaced(items: tuple, at: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], item, *items[at + 1 :])
