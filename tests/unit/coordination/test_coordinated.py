"""A saga, try-confirm-cancel and two-phase commit over two participants, in every way they can go.

What goes through is the code that runs in production: definitions, machine, the barrier's claims, the order's and the
participants' decisions. What must hold in each state is in `invariants.py`; from each state an end can be reached.
"""

import pytest

from tests.unit.coordination.conftest import Report
from tests.unit.coordination.explore import explore
from tests.unit.coordination.model import Coordination, Rules
from tests.unit.coordination.nodes import Budget
from tests.unit.coordination.participants import Sort
from tests.unit.coordination.transactions import CANCELLING, ORCHESTRATED, TCC, TWO_PHASE, hasty, patient

PROMPT, ASKING = Sort(), Sort(asks_outside=True)
STYLES = {"orchestrated": ORCHESTRATED, "tcc": TCC, "two-phase": TWO_PHASE}


def _named(budget: Budget) -> str:
    return ",".join(f"{name}={count}" for name, count in budget._asdict().items() if count)


@pytest.mark.parametrize(
    ("style", "budget"),
    [
        ("orchestrated", Budget(crashes=1, rivals=1, resumes=1)),
        ("orchestrated", Budget(crashes=1, cancels=1, resumes=1)),
        ("tcc", Budget(crashes=1, cancels=1)),
        ("two-phase", Budget(crashes=1, cancels=1)),
    ],
    ids=lambda value: _named(value) if isinstance(value, Budget) else value,
)
def test_no_way_breaks_a_promise(style: str, budget: Budget, report: Report) -> None:
    explored = explore(Coordination(STYLES[style], None, budget, Rules()))
    report(f"{style} {_named(budget)}", explored)
    assert explored.states > 20_000
    assert {"confirmed", "rejected"} <= set(explored.ends)


@pytest.mark.parametrize("style", STYLES)
def test_who_asks_outside_between_claiming_and_settling_keeps_every_promise(style: str, report: Report) -> None:
    explored = explore(Coordination(STYLES[style], None, Budget(crashes=1), Rules(), (ASKING, PROMPT)))
    report(f"{style} asking a processor, crashes=1", explored)
    assert {"confirmed", "rejected"} <= set(explored.ends)


@pytest.mark.parametrize("style", STYLES)
def test_a_cancellation_may_overtake_what_confirms_its_order(style: str, report: Report) -> None:
    explored = explore(Coordination(STYLES[style], CANCELLING, Budget(cancels=1), Rules()))
    report(f"{style} and its cancellation", explored)
    assert {"confirmed", "rejected", "cancelled"} <= set(explored.ends)


def test_a_coordinator_that_comes_back_late_breaks_no_promise(report: Report) -> None:
    """Two run one transaction; the one that was overtaken goes on calling until it writes."""
    explored = explore(Coordination(hasty(TCC), None, Budget(rivals=1), Rules()))
    report("tcc rivals=1, asking each once", explored)
    assert {"confirmed", "rejected"} <= set(explored.ends)


def test_trying_again_breaks_no_promise(report: Report) -> None:
    explored = explore(Coordination(patient(ORCHESTRATED), None, Budget(resumes=1), Rules()))
    report("orchestrated resumes=1, trying twice", explored)
    assert {"confirmed", "rejected"} <= set(explored.ends)


def test_a_checkout_that_is_cancelled_before_its_first_call_closes_its_order() -> None:
    explored = explore(Coordination(ORCHESTRATED, None, Budget(cancels=1), Rules()))
    assert set(explored.ends) == {"confirmed", "rejected", "cancelled", "parked"}
