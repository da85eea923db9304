"""Nobody coordinates a choreographed checkout, but its order watches the clock.

A checkout that did not move before its deadline is withdrawn: the others hear it and take back what they did. One that
does not come back either is parked with a reason: nobody can know from here whether money is still kept.
"""

from collections.abc import Sequence
from datetime import datetime

from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.telemetry.logs import get_logger
from services.order.adapters.choreographies import ANY_OVERDUE, Overdue
from services.order.adapters.units import PostgresUnit, PostgresUnits
from services.order.choreography import TIMED_OUT, Stage
from services.order.handlers import Withdraw, Written, change_orders

WATCH_SECONDS = 1.0
FAILED_SECONDS_MAX = 10.0
# Checkouts withdrawn or parked in one transaction.
OVERDUE_ROWS_MAX = 100

log = get_logger(__name__)


class Deadlines:
    """Looks for checkouts that stand still; `run` until cancelled, in as many processes as you like."""

    def __init__(self, database: Database, units: PostgresUnits, clock: Clock) -> None:
        self._database = database
        self._units = units
        self._clock = clock

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                found = await self.step()
            except (Unavailable, InDoubt) as error:
                failures += 1
                if failures == 1:
                    log.warning("deadlines are not watched", extra={"error": error.message})
            else:
                failures = 0
                if found == OVERDUE_ROWS_MAX:
                    continue
            await self._clock.sleep(min(WATCH_SECONDS * 2 ** min(failures, 10), FAILED_SECONDS_MAX))

    async def step(self) -> int:
        """Withdraws or parks what is overdue, up to a bound; how many that were. Raises Unavailable or InDoubt."""
        async with self._database.read() as connection:
            if not await connection.scalar(ANY_OVERDUE):
                return 0
        async with self._units.open() as unit:
            overdue = await unit.choreographies.overdue(OVERDUE_ROWS_MAX)
            parked = {one.order_id: _stuck(one) for one in overdue if one.stage is Stage.WITHDRAWN}
            running = [one for one in overdue if one.stage is Stage.RUNNING]
            withdrawn, kept = await _withdraw(unit, running, self._clock.now())
            parked |= kept
            await unit.choreographies.park(list(parked.items()))
        for order_id in withdrawn:
            log.warning("a checkout stood still and was withdrawn", extra={"order_id": order_id, "code": TIMED_OUT})
        for order_id, reason in parked.items():
            log.error("checkout parked", extra={"order_id": order_id, "reason": reason})
        return len(overdue)


async def _withdraw(unit: PostgresUnit, overdue: Sequence[Overdue], at: datetime) -> tuple[list[str], dict[str, str]]:
    """The orders whose checkouts are withdrawn now, and why any of the others cannot be."""
    changes = [Withdraw(one.order_id, TIMED_OUT, _stuck(one), at, one.traceparent) for one in overdue]
    withdrawn: list[str] = []
    kept: dict[str, str] = {}
    for one, outcome in zip(overdue, await change_orders(unit, changes), strict=True):
        match outcome:
            case Written(position=None, order=order):
                kept[one.order_id] = f"it stands still and cannot be withdrawn again: the order is {order.status}"
            case Written():
                withdrawn.append(one.order_id)
            case Unavailable():
                continue  # somebody else was faster: the next round sees what they did
            case DockyardError(message=message):
                kept[one.order_id] = f"it stands still and cannot be withdrawn: {message}"
    return withdrawn, kept


def _stuck(overdue: Overdue) -> str:
    return f"nothing was heard in time after {overdue.last_event or 'OrderPlaced'}"
