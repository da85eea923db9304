"""The choreographed checkout in every way it can go, by the rules that the services have in production."""

import pytest

from tests.unit.coordination.choreographed import Budget, Choreography
from tests.unit.coordination.conftest import Report
from tests.unit.coordination.explore import explore
from tests.unit.coordination.participants import Sort


def test_an_undisturbed_checkout_ends_as_its_services_answer(report: Report) -> None:
    explored = explore(Choreography(Budget()))
    report("choreographed", explored)
    assert set(explored.ends) == {"confirmed", "rejected"}


@pytest.mark.parametrize("sort", [Sort(), Sort(asks_outside=True)], ids=["at-once", "asking-a-processor"])
@pytest.mark.parametrize(
    "budget",
    [
        Budget(cancels=1, deadlines=1),
        Budget(deadlines=1, said_again=1),
        # An inbox that forgot what it was told: the barrier alone keeps every promise.
        Budget(cancels=1, repeats=1),
    ],
    ids=lambda budget: ",".join(f"{name}={count}" for name, count in budget._asdict().items() if count),
)
def test_no_way_breaks_a_promise_and_every_checkout_ends(budget: Budget, sort: Sort, report: Report) -> None:
    explored = explore(Choreography(budget, sort))
    told = ",".join(f"{name}={count}" for name, count in budget._asdict().items() if count)
    report(f"choreographed{' asking a processor' * sort.asks_outside} {told}", explored)
    assert {"confirmed", "rejected"} <= set(explored.ends)
    assert ("cancelled" in explored.ends) == bool(budget.cancels)
