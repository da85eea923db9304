"""An audit from beginning to end: wait until what was begun has settled, read, judge, count."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dockyard.audit.evidence import MOVING_PAYMENT, UNFINISHED
from dockyard.audit.read import read
from dockyard.audit.records import Records
from dockyard.audit.rules import RULES, Violation, audit
from libs.runtime.clock import Clock

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and what is wrong with it. `settled` is false when orders were still running."""

    settled: bool
    checked: Mapping[str, int]
    violations: tuple[Violation, ...]

    def by_coordination(self) -> Mapping[str, int]:
        """How many violations concern orders of each style; "" for those that concern no order in particular."""
        return dict(Counter(violation.coordination for violation in self.violations).most_common())


async def audit_databases(
    database_urls: Mapping[str, str], clock: Clock, settle_seconds: float, tell: Callable[[str], None]
) -> Report:
    """Audits once nothing moves any more, or after `settle_seconds` whatever moves.

    Between two services an order in flight rightly looks half-done, so rules about orders are judged at rest.
    """
    until = clock.monotonic() + settle_seconds
    while True:
        records = await read(database_urls)
        moving = _moving(records)
        if not moving or clock.monotonic() >= until:
            return Report(not moving, _counts(records), tuple(audit(records)))
        tell(f"waiting for {moving} things still moving")
        await clock.sleep(POLL_SECONDS)


def _moving(records: Records) -> int:
    """Checkouts under way, payments between two answers, and orders the view has not caught up with.

    A naive order that is pending never moves by itself: it is judged as it stands.
    """
    running = sum(saga.status == "running" for saga in records.sagas)
    dancing = sum(one.status in UNFINISHED for one in records.choreographies)
    paying = sum(payment.status in MOVING_PAYMENT for payment in records.payments)
    versions = {view.order_id: view.version for view in records.views}
    behind = sum(versions.get(order.order_id, 0) < order.version for order in records.orders)
    return running + dancing + paying + behind


def _counts(records: Records) -> dict[str, int]:
    return {
        "orders": len(records.orders),
        "sagas": len(records.sagas),
        "choreographies": len(records.choreographies),
        "parked": sum(saga.status == "parked" for saga in records.sagas)
        + sum(one.status == "parked" for one in records.choreographies),
        "payments": len(records.payments),
        "charges": len(records.charges),
        "ledger_entries": len(records.entries),
        "deductions": len(records.deductions),
        "products": len(records.products),
        "shipments": len(records.shipments),
        "prepared": len(records.prepared),
        "rules": len(RULES),
    }
