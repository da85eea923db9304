"""What REST and gRPC do alike: make a payment of a request and hand it to the cashier."""

from dataclasses import dataclass

from libs.kernel.money import Money
from libs.resilience.deadline import Deadline
from libs.runtime.clock import Clock
from services.payment.cashier import Cashier
from services.payment.domain import (
    NAME_LETTERS_MAX,
    TRANSACTION_LETTERS_MAX,
    Payment,
    Status,
    check_text,
    payment_id_of,
)
from services.payment.handlers import Done
from services.payment.ports import Account, Queries

CHARGE = "charge"


@dataclass(frozen=True, slots=True)
class ChargeCard:
    """What is to be charged; after the `deadline` nobody waits for it any more."""

    transaction_id: str
    account_id: str
    amount: Money
    card_token: str
    step: str = CHARGE
    deadline: Deadline | None = None


class Desk:
    def __init__(self, cashier: Cashier, queries: Queries, clock: Clock) -> None:
        self._cashier = cashier
        self.queries = queries
        self._clock = clock

    async def charge(self, request: ChargeCard) -> Done:
        """Raises Invalid, Refused, Unavailable or InDoubt, as the cashier does."""
        payment = Payment(
            payment_id=payment_id_of(request.transaction_id, request.step),
            transaction_id=check_text("transaction_id", request.transaction_id, TRANSACTION_LETTERS_MAX),
            step=check_text("step", request.step),
            account_id=request.account_id,
            amount=request.amount,
            card_token=request.card_token,
            status=Status.CHARGING,
            created_at=self._clock.now(),
        )
        return await self._cashier.charge(payment, request.deadline)

    async def refund(self, transaction_id: str, step: str = CHARGE) -> Done:
        check_text("transaction_id", transaction_id, TRANSACTION_LETTERS_MAX)
        return await self._cashier.refund(transaction_id, check_text("step", step))

    async def open_account(self, key: str, account_id: str, name: str) -> Account:
        """The account under its name. Raises Invalid."""
        check_text("account_id", account_id)
        check_text("name", name, NAME_LETTERS_MAX)
        await self._cashier.open_account(key, account_id, name)
        return await self.queries.account(account_id)
