"""The definitions that run in production, cut down to two participants and to tries that can be counted on one hand."""

from collections.abc import Collection
from dataclasses import replace

from libs.saga.definition import Kind, Retry, Saga
from services.order.saga import CANCELLATION, CHECKOUT, CHECKOUT_TCC, CHECKOUT_TWO_PHASE

# Inventory works as shipping does: one that asks outside and one that does not are enough.
LEFT_OUT = frozenset({"deduct-stock", "restock", "hold-stock", "confirm-stock", "prepare-stock", "commit-stock"})


def small(saga: Saga, tries: int = 1, pivot_tries: int = 2, without: Collection[str] = LEFT_OUT) -> Saga:
    """The saga without these steps; everything is tried so often."""
    once, pivot = Retry(attempts_max=tries), Retry(attempts_max=pivot_tries)
    return Saga(
        saga.name,
        tuple(
            replace(step, retry=pivot if step.kind is Kind.PIVOT else once, undo_retry=once)
            for step in saga.steps
            if step.name not in without
        ),
    )


def patient(saga: Saga) -> Saga:
    """The same, trying everything twice."""
    return small(saga, tries=2)


def hasty(saga: Saga) -> Saga:
    """The same, trying everything once, the pivot too."""
    return small(saga, pivot_tries=1)


ORCHESTRATED, TCC, TWO_PHASE = small(CHECKOUT), small(CHECKOUT_TCC), small(CHECKOUT_TWO_PHASE)
CANCELLING = small(CANCELLATION)
