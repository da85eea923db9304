"""What REST and gRPC do alike: make a payment of a request and hand it to the cashier."""

from libs.kernel.money import Money
from libs.runtime.clock import Clock
from services.payment.cashier import Cashier
from services.payment.domain import Payment, Status, payment_id_of
from services.payment.handlers import Done
from services.payment.ports import Queries

CHARGE = "charge"


class Desk:
    def __init__(self, cashier: Cashier, queries: Queries, clock: Clock) -> None:
        self._cashier = cashier
        self.queries = queries
        self._clock = clock

    async def charge(
        self, transaction_id: str, account_id: str, amount: Money, card_token: str, step: str = CHARGE
    ) -> Done:
        payment = Payment(
            payment_id=payment_id_of(transaction_id, step),
            transaction_id=transaction_id,
            step=step,
            account_id=account_id,
            amount=amount,
            card_token=card_token,
            status=Status.CHARGING,
            created_at=self._clock.now(),
        )
        return await self._cashier.charge(payment)

    async def refund(self, transaction_id: str, step: str = CHARGE) -> Done:
        return await self._cashier.refund(transaction_id, step)

    async def open_account(self, key: str, account_id: str, name: str) -> None:
        await self._cashier.open_account(key, account_id, name)
