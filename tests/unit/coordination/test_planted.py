"""What each part is for: without it, or with a plausible mistake in it, the same search finds a broken promise."""

from collections.abc import Callable, Sequence

import pytest

from libs.coordination.outcomes import Outcome
from libs.saga import machine
from libs.saga.definition import Kind, Saga
from libs.saga.machine import Action, Do, State
from services.order.domain import Order
from tests.unit.coordination import choreographed, orders
from tests.unit.coordination.choreographed import Choreography
from tests.unit.coordination.explore import Violation, explore
from tests.unit.coordination.model import Coordination, Rules
from tests.unit.coordination.nodes import Budget
from tests.unit.coordination.participants import Sort
from tests.unit.coordination.transactions import ORCHESTRATED, TCC, TWO_PHASE

NO_BARRIER, NO_SUSPENSION = Sort(barrier=False), Sort(suspends=False)


def _confirms_before_the_decision(saga: Saga, state: State) -> tuple[Action, ...]:
    """Sends what follows the pivot together with it, so that nobody waits for the decision."""
    actions = machine.next_actions(saga, state)
    if len(actions) == 1 and isinstance(actions[0], Do) and saga.step(actions[0].step).kind is Kind.PIVOT:
        following = [step for step in saga.steps if step.kind is Kind.RETRIABLE and not state.of(step.name).done]
        return (*actions, *(Do(step.name, 1, 0.0) for step in following))
    return actions


def _cancels_without_writing_it_down(order: Order) -> tuple[Order, Outcome]:
    return order, orders.resolved(order)[1]


def _found(run: Callable[[], object]) -> str:
    """The shortest way to the broken promise, shown when it is not the one that was expected."""
    with pytest.raises(Violation) as found:
        run()
    print(found.value)
    return str(found.value)


def _of(styles: Sequence[str], *bugs: str) -> list[str]:
    return [f"{style}-{bug}" for bug in bugs for style in styles]


@pytest.mark.parametrize(
    ("saga", "budget", "rules", "broken"),
    [
        (ORCHESTRATED, Budget(), Rules(sort=NO_BARRIER), "an effect happened twice"),
        (TCC, Budget(), Rules(sort=NO_BARRIER), "an effect happened twice"),
        (TWO_PHASE, Budget(), Rules(sort=NO_BARRIER), "a do acted after its undo"),
        (ORCHESTRATED, Budget(), Rules(sort=NO_SUSPENSION), "a do acted after its undo"),
        (TCC, Budget(), Rules(sort=NO_SUSPENSION), "a do acted after its undo"),
        (TWO_PHASE, Budget(), Rules(sort=NO_SUSPENSION), "a do acted after its undo"),
        (ORCHESTRATED, Budget(crashes=1), Rules(logs_the_decision=False), "a confirmed order lost an effect"),
        (TCC, Budget(crashes=1), Rules(logs_the_decision=False), "a confirmed order lost an effect"),
        (TWO_PHASE, Budget(crashes=1), Rules(logs_the_decision=False), "a confirmed order lost an effect"),
        (TCC, Budget(), Rules(asks_when_the_lease_ends=False), "a confirmed order lost an effect"),
        (TWO_PHASE, Budget(), Rules(asks_when_the_lease_ends=False), "a confirmed order lost an effect"),
        (TCC, Budget(), Rules(_confirms_before_the_decision), "a hold was used before its order was confirmed"),
        (TWO_PHASE, Budget(), Rules(_confirms_before_the_decision), "a hold was used before its order was confirmed"),
        (TCC, Budget(), Rules(resolved=_cancels_without_writing_it_down), "a confirmed order lost an effect"),
        (TWO_PHASE, Budget(), Rules(resolved=_cancels_without_writing_it_down), "a confirmed order lost an effect"),
    ],
    ids=[
        *_of(("saga", "tcc", "two-phase"), "without-barrier", "without-suspension", "decides-unlogged"),
        *_of(("tcc", "two-phase"), "lets-go-unasked", "confirms-too-early", "forgets-what-it-said"),
    ],
)
def test_a_planted_bug_is_found(saga: Saga, budget: Budget, rules: Rules, broken: str) -> None:
    told = _found(lambda: explore(Coordination(saga, None, budget, rules)))
    assert told.startswith(broken)


@pytest.mark.parametrize(
    ("budget", "sort", "broken"),
    [
        (choreographed.Budget(repeats=1), NO_BARRIER, "an effect happened twice"),
        (choreographed.Budget(cancels=1), NO_SUSPENSION, "a do acted after its undo"),
        (choreographed.Budget(deadlines=1), NO_SUSPENSION, "a do acted after its undo"),
    ],
    ids=["without-barrier", "without-suspension-cancelled", "without-suspension-too-late"],
)
def test_a_planted_bug_in_a_choreography_is_found(budget: choreographed.Budget, sort: Sort, broken: str) -> None:
    told = _found(lambda: explore(Choreography(budget, sort)))
    assert told.startswith(broken)
