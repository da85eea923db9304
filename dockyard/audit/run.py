"""An audit from beginning to end: wait until what was begun has settled, read, judge, count."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    """Sagas under way, payments between two answers, and orders the view has not caught up with."""
    running = sum(saga.status == "running" for saga in records.sagas)
    paying = sum(payment.status in {"charging", "refunding"} for payment in records.payments)
    versions = {view.order_id: view.version for view in records.views}
    behind = sum(versions.get(order.order_id, 0) < order.version for order in records.orders)
    return running + paying + behind


def _counts(records: Records) -> dict[str, int]:
    return {
        "orders": len(records.orders),
        "sagas": len(records.sagas),
        "parked": sum(saga.status == "parked" for saga in records.sagas),
        "payments": len(records.payments),
        "charges": len(records.charges),
        "ledger_entries": len(records.entries),
        "deductions": len(records.deductions),
        "products": len(records.products),
        "shipments": len(records.shipments),
        "rules": len(RULES),
    }
