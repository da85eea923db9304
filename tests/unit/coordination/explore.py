"""Visits every state a model can reach, breadth first, so that the first way to a broken promise is a shortest one."""

from array import array
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

# A model that grows beyond this has lost a bound.
STATES_MAX = 2_000_000

N = TypeVar("N", bound=Hashable)


class Model(Protocol[N]):
    def start(self) -> N: ...

    def after(self, node: N) -> Iterator[tuple[str, N]]:
        """Everything the world may do next, in words, and what is then. An AssertionError is a broken promise."""
        ...

    def broken(self, node: N) -> str:
        """The promise that does not hold here; empty when all do."""
        ...

    def end(self, node: N) -> str:
        """How it ended; empty while something is to come."""
        ...

    def told(self, node: N) -> str: ...


class Violation(AssertionError):
    """A promise was broken; the message tells the shortest way there."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """`ends` counts the states in which nothing is left to do, by how it ended."""

    states: int
    ends: Counter[str]


@dataclass
class _Seen:
    """The nodes in the order they were found, each with the one it was found from, and all steps between them."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    nodes: list[Hashable] = field(default_factory=list)
    found_from: "array[int]" = field(default_factory=lambda: array("l"))
    sources: "array[int]" = field(default_factory=lambda: array("l"))
    targets: "array[int]" = field(default_factory=lambda: array("l"))

    def number(self, node: Hashable, source: int) -> int:
        number = self.numbers.setdefault(node, len(self.nodes))
        if number == len(self.nodes):
            assert number < STATES_MAX, "the model has no bound"
            self.nodes.append(node)
            self.found_from.append(source)
        return number


def explore(model: Model[N]) -> Exploration:
    """Every state, each checked. Raises Violation for the nearest broken promise, or a state that no end follows."""
    seen = _Seen()
    seen.number(model.start(), -1)
    ends: Counter[str] = Counter()
    leads_to_end = bytearray()
    at = 0
    while at < len(seen.nodes):
        node: N = seen.nodes[at]  # type: ignore[assignment]  # what came in as N
        if problem := model.broken(node):
            raise Violation(_way(model, seen, at, problem))
        end = model.end(node)
        leads_to_end.append(bool(end))
        if end:
            ends[end] += 1
        try:
            for _, successor in model.after(node):
                number = seen.number(successor, at)
                if number != at:
                    seen.sources.append(at)
                    seen.targets.append(number)
        except AssertionError as broken:
            raise Violation(_way(model, seen, at, f"a part refused to go on: {broken}")) from broken
        at += 1
    _every_state_leads_to_an_end(model, seen, leads_to_end)
    return Exploration(len(seen.nodes), ends)


def _every_state_leads_to_an_end(model: Model[N], seen: _Seen, leads: bytearray) -> None:
    """Backwards from the ends; what they do not reach is stuck, or goes round for ever without a way out."""
    changed = True
    while changed:
        changed = False
        for source, target in zip(reversed(seen.sources), reversed(seen.targets), strict=True):
            if leads[target] and not leads[source]:
                leads[source] = changed = True
    stuck = leads.find(0)
    if stuck >= 0:
        raise Violation(_way(model, seen, stuck, "from here it can never end"))


def _way(model: Model[N], seen: _Seen, at: int, problem: str) -> str:
    """The steps from the start, each with what it led to."""
    steps: list[str] = []
    while at > 0:
        source = seen.found_from[at]
        node: N = seen.nodes[source]  # type: ignore[assignment]  # what came in as N
        step = next(label for label, successor in model.after(node) if successor == seen.nodes[at])
        steps.append(f"{step}\n      {model.told(seen.nodes[at])}")  # type: ignore[arg-type]  # what came in as N
        at = source
    told = "\n".join(f"  {number}. {step}" for number, step in enumerate(reversed(steps), 1))
    return f"{problem}, after {len(steps)} steps:\n{told}"
