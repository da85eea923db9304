"""What must hold in every state, whatever the style: one function for each promise, which says what is wrong."""

from collections.abc import Callable, Sequence

from services.order.domain import Order, Status
from services.shipping.domain import Status as Record
from tests.unit.coordination.participants import Site

Promise = Callable[[Order, Sequence[Site]], str]


def each_effect_happens_at_most_once(order: Order, sites: Sequence[Site]) -> str:
    """G2."""
    return _any(sites, lambda site: site.had > 1 or site.taken > 1, "an effect happened twice")


def an_undo_that_comes_first_wins(order: Order, sites: Sequence[Site]) -> str:
    """G6: what was undone stays undone, also where there was nothing to undo."""
    return _any(sites, lambda site: _was_undone(site) and site.is_live, "a do acted after its undo")


def a_confirmed_order_is_complete(order: Order, sites: Sequence[Site]) -> str:
    """G3; until its customer cancels it."""
    if order.status is not Status.CONFIRMED or order.cancel_requested:
        return ""
    return _any(sites, lambda site: site.undo is not None or not site.is_live, "a confirmed order lost an effect")


def what_ended_otherwise_leaves_nothing(order: Order, sites: Sequence[Site]) -> str:
    """G4, from the moment it ended on. What is prepared is nothing yet, and never will be anything: see below."""
    return (
        _any(sites, _has_something, f"something is left of an order that is {order.status}") if _is_off(order) else ""
    )


def what_ended_otherwise_keeps_nothing_locked(order: Order, sites: Sequence[Site]) -> str:
    """Nor is anything prepared that only its participant's own question will roll back."""
    return _any(sites, lambda site: site.prepared is not None, "something stays prepared") if _is_off(order) else ""


def nothing_is_final_before_the_decision(order: Order, sites: Sequence[Site]) -> str:
    """A hold is used only for a confirmed order, and so never while it may be let go elsewhere."""
    decided = order.status in {Status.CONFIRMED, Status.SHIPPED, Status.CANCELLED}
    return "" if decided else _any(sites, _was_made_final, "a hold was used before its order was confirmed")


def never_one_without_the_other(order: Order, sites: Sequence[Site]) -> str:
    """One side let go while another is used for good; of a confirmed order only its customer's cancellation does."""
    if order.status is Status.CONFIRMED and order.cancel_requested:
        return ""
    let_go = any(site.undo is not None for site in sites)
    used = any(_was_made_final(site) and site.status is Record.RELEASED for site in sites)
    return "a hold was let go on one side and used on the other" if let_go and used else ""


PROMISES: Sequence[Promise] = (
    each_effect_happens_at_most_once,
    an_undo_that_comes_first_wins,
    nothing_is_final_before_the_decision,
    never_one_without_the_other,
    a_confirmed_order_is_complete,
    what_ended_otherwise_leaves_nothing,
    what_ended_otherwise_keeps_nothing_locked,
)


def broken_promise(order: Order, sites: Sequence[Site], promises: Sequence[Promise] = PROMISES) -> str:
    """The first promise that does not hold; empty when all do."""
    return next((problem for promise in promises if (problem := promise(order, sites))), "")


def _any(sites: Sequence[Site], is_wrong: Callable[[Site], bool], problem: str) -> str:
    return problem if any(is_wrong(site) for site in sites) else ""


def _is_off(order: Order) -> bool:
    return order.status in {Status.REJECTED, Status.CANCELLED}


def _has_something(site: Site) -> bool:
    return site._replace(prepared=None).is_live


def _was_undone(site: Site) -> bool:
    return site.undo is not None and site.undo.answer is not None


def _was_made_final(site: Site) -> bool:
    return site.status is Record.RELEASED
