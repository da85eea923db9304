"""How long an order kept something from others, and how long it could be seen half done: from the records alone.

Every effect left a row in its service's barrier with the time at which its transaction began; the order's events have
their times as well, and all databases are of one server, so of one clock. An effect becomes visible at the end of its
transaction, so each time is early by the length of one transaction, some milliseconds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

STOCK = "deduct-stock"
STEPS = (STOCK, "charge", "book-shipment")
DO, UNDO, CONFIRM = "do", "undo", "confirm"
AT_ONCE = "at-once"
CONFIRMED, UNCONFIRMED = "confirmed", "unconfirmed"


@dataclass(frozen=True, slots=True)
class Effect:
    """A barrier row. `refused`: its answer was no, so it changed nothing."""

    step: str
    operation: str
    manner: str
    at: datetime
    refused: bool = False


@dataclass(slots=True)
class Life:
    """One order: when it was decided and how ("confirmed", "unconfirmed", or "" while it is open), and its effects."""

    order_id: str
    coordination: str
    placed_at: datetime
    decided_at: datetime | None = None
    decision: str = ""
    effects: list[Effect] = field(default_factory=list)

    def done(self, step: str) -> Effect | None:
        """The effect of this step that was had, held or prepared, or None."""
        return next((one for one in self.effects if one.step == step and one.operation == DO and not one.refused), None)

    def later(self, step: str, operation: str) -> Effect | None:
        """What was said of the step afterwards, or None."""
        found = (one for one in self.effects if one.step == step and one.operation == operation and not one.refused)
        return next(found, None)


def stock_kept_ms(life: Life) -> float | None:
    """How long stock was held, or locked in a prepared transaction; 0 when it was taken at once.

    None when no record tells: nothing was kept, it still is, or it was prepared and rolled back, which leaves no row.
    """
    do = life.done(STOCK)
    if do is None:
        return None
    if do.manner == AT_ONCE:
        return 0.0
    ends = [one.at for one in (life.later(STOCK, CONFIRM), life.later(STOCK, UNDO)) if one is not None]
    return _ms(do.at, min(ends)) if ends else None


def inconsistent_ms(life: Life) -> float | None:
    """How long services told different things of the order; None when they still do.

    The first thing that anybody can see of the outcome (stock that is gone, a charge, a booking, or the decision)
    begins it; the last one that makes them agree ends it. What is only held or prepared shows no outcome yet.
    """
    if life.decided_at is None or not all(_agrees(life, step) for step in STEPS):
        return None
    marks = [life.decided_at, *(at for step in STEPS for at in _seen(life, step))]
    return _ms(min(marks), max(marks))


def _agrees(life: Life, step: str) -> bool:
    """Whether the step's last state is what the decision says."""
    do = life.done(step)
    if life.decision == CONFIRMED:
        return do is not None and (do.manner == AT_ONCE or life.later(step, CONFIRM) is not None)
    return do is None or life.later(step, UNDO) is not None


def _seen(life: Life, step: str) -> Iterable[datetime]:
    """When something final of this step became visible, and when it was taken back."""
    do = life.done(step)
    if do is None:
        return
    confirm, undo = life.later(step, CONFIRM), life.later(step, UNDO)
    if do.manner == AT_ONCE:
        yield do.at
    if confirm is not None:
        yield confirm.at
    if undo is not None and (do.manner == AT_ONCE or confirm is not None):
        yield undo.at


def _ms(since: datetime, until: datetime) -> float:
    return max((until - since).total_seconds(), 0.0) * 1000


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed (nearest rank); 0 when there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
