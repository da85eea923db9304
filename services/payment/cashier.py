"""Charging and refunding from beginning to end: begin in one transaction, ask the processor, settle in another."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from libs.kernel.errors import InDoubt, Refused, Unavailable
from libs.resilience.breaker import Breaker
from libs.resilience.retry import retrying
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
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
# How many payments that a dead process left behind are carried on at a time.
RESUME_ROWS_MAX = 500
RESUME_SECONDS = 5.0

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
        self._breaker = Breaker("card processor")
        self._running: SingleFlight[Done] = SingleFlight("card processor")

    async def charge(self, payment: Payment) -> Done:
        """Raises Refused with the processor's code when it declines; Unavailable or InDoubt when it does not answer."""
        checked(payment)
        key = Key(payment.transaction_id, payment.step, Operation.DO)
        asked = f"{payment.account_id}\0{payment.amount}\0{payment.card_token}"
        begun = await self._beginning.submit(BeginCharge(_entry(key, asked), payment))
        if isinstance(begun, Done):
            return begun
        return await self._running.run(key, lambda: self._charge(key, begun.payment))

    async def refund(self, transaction_id: str, step: str) -> Done:
        """Gives back what this effect charged; a charge whose outcome is unknown is cleared up first."""
        key = Key(transaction_id, step, Operation.UNDO)
        begun = await self._beginning.submit(BeginRefund(_entry(key, "")))
        if isinstance(begun, Done):
            return begun
        return await self._running.run(key, lambda: self._refund(key, begun.payment))

    async def open_account(self, key: str, account_id: str, name: str) -> None:
        entry = _entry(Key(f"key:{key}", "open-account", Operation.DO), f"{account_id}\0{name}")
        await self._beginning.submit(OpenAccount(entry, account_id, name))

    async def drain(self) -> None:
        await self._running.drain()

    async def resume(self, unfinished: Unfinished) -> None:
        """Carries on what a dead process left behind, whether or not anybody asks for it again; until cancelled."""
        while True:
            try:
                for payment in await unfinished.unfinished(RESUME_ROWS_MAX):
                    await self._carry_on(payment)
            except (Unavailable, InDoubt) as error:
                log.warning("unfinished payments wait", extra={"error": error.message})
            await self._clock.sleep(RESUME_SECONDS)

    async def _carry_on(self, payment: Payment) -> None:
        operation = Operation.UNDO if payment.status is Status.REFUNDING else Operation.DO
        key = Key(payment.transaction_id, payment.step, operation)
        work = self._refund if payment.status is Status.REFUNDING else self._charge
        try:
            await self._running.run(key, lambda: work(key, payment))
        except Refused:
            log.info("payment declined", extra={"payment_id": payment.payment_id})
        except (Unavailable, InDoubt) as error:
            log.warning("payment still in doubt", extra={"payment_id": payment.payment_id, "error": error.message})

    async def _charge(self, key: Key, payment: Payment) -> Done:
        with span(names.CHARGE_CARD, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            verdict = await self._ask(lambda: self._processor.charge(payment))
        return await self._settling.submit(Charge(key, verdict))

    async def _refund(self, key: Key, payment: Payment) -> Done:
        if payment.status is Status.CHARGING:
            # Its answer may still be on its way: only asking again under the same key tells what happened.
            do_key = Key(key.transaction_id, key.step, Operation.DO)
            # Declined is fine: then the second look below finds nothing to give back.
            with suppress(Refused):
                await self._running.run(do_key, lambda: self._charge(do_key, payment))
            begun = await self._beginning.submit(BeginRefund(_entry(key, "")))
            return begun if isinstance(begun, Done) else await self._refund(key, begun.payment)
        if payment.status is Status.REFUNDED:
            return await self._settling.submit(Refund(key))
        with span(names.REFUND_CARD, attributes={names.TRANSACTION_ID: payment.transaction_id}):
            await self._ask(lambda: self._processor.refund(payment))
        return await self._settling.submit(Refund(key))

    async def _ask(self, work: Callable[[], Awaitable[R]]) -> R:
        return await retrying(
            lambda: self._breaker.call(work),
            idempotent=True,
            attempts_max=ATTEMPTS_MAX,
            seconds_max=ROUND_SECONDS_MAX,
        )


def _entry(key: Key, asked: str) -> Entry:
    return Entry(key, hashlib.sha256(asked.encode()).digest())
