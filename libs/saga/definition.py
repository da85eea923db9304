"""A saga is data: steps with what they do, what undoes them, and how long to insist. Checked when it is made.

Kinds follow the literature (Garcia-Molina and Salem, "Sagas", SIGMOD 1987; Richardson, "Microservices Patterns",
ch. 4): compensatable steps can be undone, the pivot decides, retriable steps after it must succeed in the end.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from itertools import groupby
from typing import Any, Final, Literal

ATTEMPTS_LIMIT = 1000
SECONDS_LIMIT = 3600.0


class Kind(StrEnum):
    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


class _Nothing(Enum):
    TO_UNDO = auto()


# Says that a compensatable step leaves nothing behind (a question, a check): nothing is sent when the saga goes back.
NOTHING_TO_UNDO: Final = _Nothing.TO_UNDO


class BadSaga(ValueError):
    """The definition could leave something half-done, or never end; raised where the saga is defined."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a participant is asked: its name, the command's name, and the command's own data."""

    participant: str
    name: str
    body: Any


# Made from the saga's input and the results of the steps done so far, by step name.
MakeCommand = Callable[[Any, Mapping[str, Any]], Command]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to try, and how long to wait between: doubling from the first delay up to the longest."""

    attempts_max: int = 10
    first_delay_seconds: float = 0.1
    delay_seconds_max: float = 5.0

    def delay_seconds(self, attempt: int) -> float:
        """The wait before this attempt; none before the first."""
        if attempt <= 1:
            return 0.0
        return min(self.first_delay_seconds * 2.0 ** min(attempt - 2, 30), self.delay_seconds_max)


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Neighbouring steps with the same non-empty `group` run in parallel.

    Giving a do up is cheap, giving an undo up costs an operator's attention: undos are tried for longer.
    """

    name: str
    do: MakeCommand
    undo: MakeCommand | Literal[_Nothing.TO_UNDO] | None = None
    kind: Kind = Kind.COMPENSATABLE
    retry: Retry = Retry()
    undo_retry: Retry = Retry(attempts_max=60, delay_seconds_max=2.0)
    timeout_seconds: float = 5.0
    group: str = ""

    @property
    def undone_by(self) -> MakeCommand | None:
        """What undoes it, if anything is to be sent at all."""
        return None if self.undo is NOTHING_TO_UNDO else self.undo


Group = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Saga:
    """Steps in order: compensatable ones, then at most one pivot, then retriable ones. Raises BadSaga.

    Of one with `at_once_max` no more run at once; the others wait their turn with nothing begun.
    """

    name: str
    steps: tuple[Step, ...]
    version: int = 1
    at_once_max: int | None = None
    _groups: tuple[Group, ...] = field(init=False, repr=False, compare=False)
    _by_name: Mapping[str, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grouped = groupby(self.steps, key=_group_key)
        # Asked at every step of every saga: worked out once.
        object.__setattr__(self, "_groups", tuple(tuple(steps) for _, steps in grouped))
        object.__setattr__(self, "_by_name", {step.name: step for step in self.steps})
        problems = _problems(self)
        if problems:
            raise BadSaga(f"saga {self.name}: {'; '.join(problems)}")

    def groups(self) -> tuple[Group, ...]:
        """The steps as they run: one after another, those of one group together."""
        return self._groups

    def step(self, name: str) -> Step:
        return self._by_name[name]


def _group_key(step: Step) -> tuple[str, str]:
    """What a step shares with those it runs together with: a group's name, or nothing but its own."""
    return (step.group, "") if step.group else ("", step.name)


def _problems(saga: Saga) -> list[str]:
    return [*_shape_problems(saga), *(problem for step in saga.steps for problem in _step_problems(step))]


def _shape_problems(saga: Saga) -> list[str]:
    names = [step.name for step in saga.steps]
    order = [list(Kind).index(step.kind) for step in saga.steps]
    groups = saga.groups()
    keys = [_group_key(group[0]) for group in groups]
    found = []
    if not saga.steps:
        found.append("it has no step")
    if saga.at_once_max is not None and saga.at_once_max < 1:
        found.append("none of it may run")
    if len(set(names)) != len(names):
        found.append("two steps have one name")
    if order != sorted(order):
        found.append("its steps are not in the order compensatable, pivot, retriable")
    if sum(step.kind is Kind.PIVOT for step in saga.steps) > 1:
        found.append("it has two pivots, but only one step can decide")
    if len(set(keys)) != len(keys):
        found.append("the steps of a group do not stand together")
    if any(len({step.kind for step in group}) > 1 for group in groups):
        found.append("a group mixes kinds")
    return found


def _step_problems(step: Step) -> list[str]:
    found = []
    if not step.name or ":" in step.name or "." in step.name:
        found.append(f"step name {step.name!r} is empty or holds a colon or dot")
    if step.kind is Kind.COMPENSATABLE and step.undo is None:
        found.append(f"step {step.name} is compensatable and has no undo")
    if step.kind is not Kind.COMPENSATABLE and step.undo is not None:
        found.append(f"step {step.name} is {step.kind} and is never undone, yet has an undo")
    for retry in (step.retry, step.undo_retry):
        if not 1 <= retry.attempts_max <= ATTEMPTS_LIMIT:
            found.append(f"step {step.name} has no limit of attempts between 1 and {ATTEMPTS_LIMIT}")
        delays = (retry.first_delay_seconds, retry.delay_seconds_max)
        if not all(math.isfinite(delay) and 0 <= delay <= SECONDS_LIMIT for delay in delays):
            found.append(f"step {step.name} has a delay without limit")
    if not (math.isfinite(step.timeout_seconds) and 0 < step.timeout_seconds <= SECONDS_LIMIT):
        found.append(f"step {step.name} has no time limit")
    return found
