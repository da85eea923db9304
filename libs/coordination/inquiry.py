"""A participant that held something long enough asks what became of it; it never decides by itself.

Letting go of a hold on one side while a confirmation may still come is the mistake; keeping it for ever because the
coordinator is gone is the other one. So the hold stays until the coordinator, or whoever took over its log, answers.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from libs.coordination.outcomes import Coordinator, Outcome
from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock
from libs.telemetry.logs import get_logger

# Transactions asked about in one call.
ASK_ROWS_MAX = 100
ASK_SECONDS = 1.0
# A coordinator that does not answer is not asked more often than this.
FAILED_SECONDS_MAX = 10.0

log = get_logger(__name__)


class Holdings(Protocol):
    """What a participant keeps from others until somebody decides."""

    async def overdue(self, limit: int) -> Sequence[str]:
        """Transactions whose lease has ended, longest ago first."""
        ...

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        """Makes the effect final, or takes it back; once, whoever else says the same."""
        ...


class Inquiry:
    """Asks again and again about what is overdue; `run` until cancelled."""

    def __init__(
        self, holdings: Holdings, coordinator: Coordinator, clock: Clock, every_seconds: float = ASK_SECONDS
    ) -> None:
        self._holdings = holdings
        self._coordinator = coordinator
        self._clock = clock
        self._every_seconds = every_seconds

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                await self.step()
            except (Unavailable, InDoubt) as error:
                failures += 1
                if failures == 1:
                    log.warning("holds wait for their coordinator", extra={"error": error.message})
            else:
                failures = 0
            await self._clock.sleep(min(self._every_seconds * 2 ** min(failures, 10), FAILED_SECONDS_MAX))

    async def step(self) -> int:
        """Asks about what is overdue; returns how many were settled. Raises Unavailable or InDoubt."""
        transaction_ids = await self._holdings.overdue(ASK_ROWS_MAX)
        if not transaction_ids:
            return 0
        outcomes = await self._coordinator.resolve(transaction_ids)
        decided = [
            (transaction_id, outcome)
            for transaction_id, outcome in zip(transaction_ids, outcomes, strict=True)
            if outcome is not Outcome.UNDECIDED
        ]
        # Together: one may wait for rows that another keeps, and what is asked together is done in one batch.
        async with asyncio.TaskGroup() as group:
            for transaction_id, outcome in decided:
                group.create_task(self._settle(transaction_id, outcome))
        return len(decided)

    async def _settle(self, transaction_id: str, outcome: Outcome) -> None:
        """One that cannot be settled now does not keep the others."""
        extra = {"transaction_id": transaction_id, "outcome": outcome.value}
        try:
            await self._holdings.settle(transaction_id, outcome)
        except DockyardError as error:
            log.warning("a hold could not be settled", extra={**extra, "error": error.message})
        else:
            log.info("an overdue hold was settled", extra=extra)
