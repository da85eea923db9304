"""Charging and refunding from beginning to end: begin in one transaction, ask the processor, settle in another."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.resilience.breaker import Breaker
from libs.resilience.deadline import Deadline
from libs.resilience.retry import retrying
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.single_flight import SingleFlight
from libs.tcc.barrier import Entry, Key, Operation
from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import span
from services.payment.domain import Payment, Status, checked
from services.payment.handlers import Ask, Begin, BeginCharge, BeginRefund, Done, OpenAccount, Settle
from services.payment.handlers import SettleCharge as Charge
from services.payment.handlers import SettleRefund as Refund
from services.payment.ports import Processor, Unfinished

# One round of tries; whoever asked may ask again, and a round under way is joined.
ATTEMPTS_MAX = 4
ROUND_SECONDS_MAX = 8.0
# Cards that misbehave come in handfuls, and each fails by itself; a processor that is down fails everybody.
FAILURES_MAX = 20
# Payments that a dead process left behind are carried on so many at a time.
RESUME_ROWS_MAX = 32

CALL_BEFORE, CALL_AFTER = "payment.call.before", "payment.call.after"
declare(CALL_BEFORE, CALL_AFTER)

log = get_logger(__name__)

R = TypeVar("R")


class Cashier:
    """Every charge and refund happens at most once, however often and from wherever it is asked for."""

    def __init__(
        self,
        beginning: Batcher[Begin, Done | Ask],
        settling: Batcher[Settle, Done],
        processor: Processor,
        clock: Clock,
    ) -> None:
        self._beginning = beginning
        self._settling = settling
        self._processor = processor
        self._clock = clock
        self._breaker = Breaker("card processor", failures_max=FAILURES_MAX, clock=clock)
        self._running: SingleFlight[Done] = SingleFlight("card processor")

    async def charge(self, payment: Payment, deadline: Deadline | None = None) -> Done:
        """Raises Refused with the processor's code when it declines, InDoubt while it does not answer.

        Unavailable promises that the card will not be charged unless somebody asks again.
        """
        checked(payment)
        seconds = self._seconds_left(deadline)
        key = Key(payment.transaction_id, payment.step, Operation.DO)
        asked = f"{payment.account_id}\0{payment.amount}\0{payment.card_token}"
        begun = await self._beginning.submit(BeginCharge(_entry(key, asked), payment))
        if isinstance(begun, Done):
            return begun
        return await self._followed(key, lambda: self._charge(key, begun.payment, seconds))

    async def refund(self, transaction_id: str, step: str) -> Done:
        """Gives back what this effect charged; a charge whose outcome is unknown is cleared up first.

        It takes no deadline: what has to be taken back does not become unnecessary by being late.
        """
        key = Key(transaction_id, step, Operation.UNDO)
        begun = await self._beginning.submit(BeginRefund(_entry(key, "")))
        if isinstance(begun, Done):
            return begun
        return await self._followed(key, lambda: self._refund(key, begun.payment))

    async def open_account(self, key: str, account_id: str, name: str) -> None:
        entry = _entry(Key(f"key:{key}", "open-account", Operation.DO), f"{account_id}\0{name}")
        await self._beginning.submit(OpenAccount(entry, account_id, name))

    async def drain(self) -> None:
        await self._running.drain()

    async def resume(self, unfinished: Unfinished, after_seconds: float, every_seconds: float) -> None:
        """Carries on, again and again, what a dead process left behind; until cancelled."""
        while True:
            try:
                await self.resume_once(unfinished, after_seconds)
            except (Unavailable, InDoubt) as error:
                log.warning("unfinished payments wait", extra={"error": error.message})
            await self._clock.sleep(every_seconds)

    async def resume_once(self, unfinished: Unfinished, after_seconds: float) -> None:
        """Carries on every payment unfinished for so long, whether or not anybody asks for it again."""
        before = self._clock.now() - timedelta(seconds=after_seconds)
        page = await unfinished.unfinished(before, None, RESUME_ROWS_MAX)
        while page:
            async with asyncio.TaskGroup() as group:
                for payment in page:
                    group.create_task(self._carry_on(payment))
            page = await unfinished.unfinished(before, page[-1], RESUME_ROWS_MAX)

    async def _carry_on(self, payment: Payment) -> None:
        back = payment.refund_wanted or payment.status is Status.REFUNDING
        key = Key(payment.transaction_id, payment.step, Operation.UNDO if back else Operation.DO)
        work = self._refund if back else self._charge
        try:
            await self._running.run(key, lambda: work(key, payment))
        except Refused:
            log.info("payment declined", extra={"payment_id": payment.payment_id})
        except DockyardError as error:
            log.warning("payment still in doubt", extra={"payment_id": payment.payment_id, "error": error.message})
        except Exception:  # the outermost loop of work nobody waits for: one broken payment does not keep the others
            log.exception("payment cannot be carried on", extra={"payment_id": payment.payment_id})

    async def _followed(self, key: Key, work: Callable[[], Awaitable[Done]]) -> Done:
        """The outcome of work that was begun, and will be carried on: "nothing happened" would not stay true."""
        try:
            return await self._running.run(key, work)
        except Unavailable as error:
            raise InDoubt(error.message, code=error.code, retry_after_seconds=error.retry_after_seconds) from error

    async def _charge(self, key: Key, payment: Payment, seconds_max: float = ROUND_SECONDS_MAX) -> Done:
        with span(names.CHARGE_CARD, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            verdict = await self._ask(lambda: self._processor.charge(payment), seconds_max)
        return await self._settling.submit(Charge(key, verdict))

    async def _refund(self, key: Key, payment: Payment) -> Done:
        if payment.status is Status.CHARGING:
            return await self._refund_unknown(key, payment)
        if payment.status is Status.REFUNDING:
            with span(names.REFUND_CARD, attributes={names.TRANSACTION_ID: payment.transaction_id}):
                await self._ask(lambda: self._processor.refund(payment), ROUND_SECONDS_MAX)
        return await self._settling.submit(Refund(key))

    async def _refund_unknown(self, key: Key, payment: Payment) -> Done:
        """The charge's answer may still be on its way: only asking again under its own key tells what happened."""
        do_key = Key(key.transaction_id, key.step, Operation.DO)
        # Declined is fine: then the second look below finds nothing to give back.
        with suppress(Refused):
            await self._running.run(do_key, lambda: self._charge(do_key, payment))
        begun = await self._beginning.submit(BeginRefund(_entry(key, "")))
        return begun if isinstance(begun, Done) else await self._refund(key, begun.payment)

    async def _ask(self, work: Callable[[], Awaitable[R]], seconds_max: float) -> R:
        failpoint(CALL_BEFORE)
        answer = await retrying(
            lambda: self._breaker.call(work),
            idempotent=True,
            attempts_max=ATTEMPTS_MAX,
            seconds_max=seconds_max,
            clock=self._clock,
        )
        failpoint(CALL_AFTER)
        return answer

    def _seconds_left(self, deadline: Deadline | None) -> float:
        """How long a round may take. Raises Unavailable when nobody waits for it any more."""
        if deadline is None:
            return ROUND_SECONDS_MAX
        seconds = deadline.remaining_seconds(self._clock.unix_ms())
        if seconds <= 0:
            raise Unavailable("the deadline passed before anything was done", code="deadline-passed")
        return min(seconds, ROUND_SECONDS_MAX)


def _entry(key: Key, asked: str) -> Entry:
    return Entry(key, hashlib.sha256(asked.encode()).digest())
