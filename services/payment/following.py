"""What events began goes on as soon as it is committed: the card processor is never called inside their transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import span
from services.payment.domain import Payment

# Payments that wait to be carried on, about 500 bytes each; what does not fit is found by the loop that resumes.
WAITING_MAX = 4096
# Carried on at once; as many as calls to the processor may be under way.
WORKERS = 64

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A payment the processor has to be asked about, in the trace of who wanted it."""

    payment: Payment
    traceparent: str


class Following:
    """A bounded queue and its workers; `run` until cancelled. Nothing is lost with it: it is all written down."""

    def __init__(self, carry_on: Callable[[Payment], Awaitable[None]], waiting_max: int = WAITING_MAX) -> None:
        self._carry_on = carry_on
        self._waiting: asyncio.Queue[Begun] = asyncio.Queue(waiting_max)

    def follow(self, begun: Sequence[Begun]) -> None:
        """Takes what was begun and committed, as far as there is room."""
        room = self._waiting.maxsize - self._waiting.qsize()
        for one in begun[:room]:
            self._waiting.put_nowait(one)
        if len(begun) > room:
            log.warning("payments wait to be resumed", extra={"payments": len(begun) - room})

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            one = await self._waiting.get()
            attributes = {names.TRANSACTION_ID: one.payment.transaction_id}
            with span(names.COMMAND, traceparent=one.traceparent or None, attributes=attributes):
                await self._carry_on(one.payment)
