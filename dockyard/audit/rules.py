"""The guarantees recomputed from the records: pure, one function a promise, one violation where it was broken."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from dockyard.audit.books import (
    g5_capacity_is_not_oversold,
    g5_ledger_balances,
    g5_stock_adds_up,
    g10_view_equals_events,
)
from dockyard.audit.evidence import Evidence, Violation, gather, styles
from dockyard.audit.orders import (
    g1_choreographies_keep_their_deadline,
    g1_every_order_ends,
    g2_effects_happen_once,
    g3_confirmed_orders_are_paid_taken_and_shipped,
    g4_effects_belong_to_orders,
    g4_failed_orders_keep_nothing,
    g4_no_hold_outlives_its_order,
    g4_nothing_stays_prepared,
)
from dockyard.audit.records import Records

__all__ = ["RULES", "Violation", "audit"]

Rule = Callable[[Records, Evidence], Iterator[Violation]]

RULES: tuple[Rule, ...] = (
    g1_every_order_ends,
    g1_choreographies_keep_their_deadline,
    g2_effects_happen_once,
    g3_confirmed_orders_are_paid_taken_and_shipped,
    g4_failed_orders_keep_nothing,
    g4_no_hold_outlives_its_order,
    g4_nothing_stays_prepared,
    g4_effects_belong_to_orders,
    g5_ledger_balances,
    g5_stock_adds_up,
    g5_capacity_is_not_oversold,
    g10_view_equals_events,
)


def audit(records: Records) -> list[Violation]:
    """Every violation, sorted; an empty list means each rule held for each record."""
    evidence, style = gather(records), styles(records)
    found = (violation for rule in RULES for violation in rule(records, evidence))
    return sorted(replace(one, coordination=next(filter(None, map(style.get, one.ids)), "")) for one in found)
