"""What a state of the model is made of: numbers and tuples, cheap to compare and to keep."""

from collections.abc import Callable
from typing import Any, NamedTuple

# A call that has come to nothing yet; a run that has no calls out.
WAITING = -1
NOWHERE = -1


class Budget(NamedTuple):
    """How often each may still happen; messages are lost, repeated and delayed without limit."""

    crashes: int = 0
    rivals: int = 0
    cancels: int = 0
    resumes: int = 0


class Run(NamedTuple):
    """One process at one saga: what it knows, and what the calls it began in an earlier state have come to so far.

    `first`: nobody else wrote to the log since.
    """

    state: int
    begun: int = NOWHERE
    calls: tuple[int, ...] = ()
    first: bool = True


class Thread(NamedTuple):
    """One saga: what is durable of its log, and who runs it."""

    log: int
    runs: tuple[Run, ...]


class Node(NamedTuple):
    threads: tuple[Thread, ...]
    order: int
    sites: tuple[int, ...]
    sent: int
    budget: Budget


class Interned:
    """Things by small numbers: a node of numbers is cheap to compare."""

    def __init__(self, key: Callable[[Any], Any] = lambda thing: thing) -> None:
        self._key = key
        self._numbers: dict[Any, int] = {}
        self.things: list[Any] = []

    def __call__(self, thing: Any) -> int:
        number = self._numbers.setdefault(self._key(thing), len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number

    def __getitem__(self, number: int) -> Any:
        return self.things[number]


def replaced_run(node: Node, which: int, at: int, *run: Run) -> Node:
    """The node with this run as it is now, or without it."""
    log, runs = node.threads[which]
    return with_thread(node, which, Thread(log, (*runs[:at], *run, *runs[at + 1 :])))


def with_thread(node: Node, which: int, thread: Thread) -> Node:
    threads, order, sites, sent, budget = node
    return Node((*threads[:which], thread, *threads[which + 1 :]), order, sites, sent, budget)
