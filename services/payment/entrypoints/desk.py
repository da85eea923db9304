"""What REST and gRPC do alike: make a payment of a request and hand it to the cashier."""

from dataclasses import dataclass

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Invalid
from libs.kernel.money import Money
from libs.resilience.deadline import Deadline
from libs.runtime.clock import Clock
from libs.tcc.barrier import Key, Manner, Operation
from libs.tcc.trail import Trail
from libs.twophase.preparations import Preparations
from services.payment.cashier import Cashier
from services.payment.domain import (
    CHARGE,
    NAME_LETTERS_MAX,
    TRANSACTION_LETTERS_MAX,
    Payment,
    Status,
    check_text,
    payment_id_of,
)
from services.payment.handlers import Done
from services.payment.ports import Account, Queries


@dataclass(frozen=True, slots=True)
class ChargeCard:
    """What is to be charged; after the `deadline` nobody waits for it any more.

    What is only held, or prepared, is authorised, and asks after `lease_ms` what became of its transaction.
    """

    transaction_id: str
    account_id: str
    amount: Money
    card_token: str
    step: str = CHARGE
    deadline: Deadline | None = None
    manner: Manner = Manner.AT_ONCE
    lease_ms: int = 0


class Desk:
    """`lease_ms` is how long money is set aside before we ask, unless the command says otherwise."""

    def __init__(
        self, cashier: Cashier, preparations: Preparations[Key, bool], queries: Queries, clock: Clock, lease_ms: int
    ) -> None:
        self._cashier = cashier
        self._preparations = preparations
        self.queries = queries
        self._clock = clock
        self._lease_ms = lease_ms

    async def charge(self, request: ChargeCard) -> Done:
        """Raises Invalid, Refused, Unavailable or InDoubt, as the cashier does."""
        _check(request.transaction_id, request.step, request.manner)
        payment = Payment(
            payment_id=payment_id_of(request.transaction_id, request.step),
            transaction_id=request.transaction_id,
            step=request.step,
            account_id=request.account_id,
            amount=request.amount,
            card_token=request.card_token,
            status=Status.CHARGING if request.manner is Manner.AT_ONCE else Status.AUTHORISING,
            created_at=self._clock.now(),
        )
        lease_ms = request.lease_ms or self._lease_ms
        done = await self._cashier.charge(payment, request.deadline, request.manner, lease_ms)
        if request.manner is Manner.PREPARE:
            await self._preparations.prepare(Key(request.transaction_id, request.step, Operation.DO))
        return done

    async def confirm(self, transaction_id: str, step: str = CHARGE, manner: Manner = Manner.AT_ONCE) -> Done:
        """Captures what is authorised; what is prepared only in that manner."""
        _check(transaction_id, step, manner)
        if manner is Manner.PREPARE:
            await self._preparations.commit(transaction_id)
        return await self._cashier.capture(transaction_id, step, manner)

    async def refund(self, transaction_id: str, step: str = CHARGE, manner: Manner = Manner.AT_ONCE) -> Done:
        """Takes back what is there, however it was made; what is prepared only in that manner."""
        _check(transaction_id, step, manner)
        if manner is Manner.PREPARE:
            await self._preparations.roll_back(transaction_id)
        return await self._cashier.refund(transaction_id, step, manner)

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        """What the coordinator's own command would do, prepared or held; when that comes, it is answered the same."""
        if outcome is Outcome.CONFIRM:
            await self.confirm(transaction_id, manner=Manner.PREPARE)
        else:
            await self.refund(transaction_id, manner=Manner.PREPARE)

    async def trail(self, transaction_id: str) -> Trail:
        """What was done for a transaction."""
        return await self.queries.trail(check_text("transaction_id", transaction_id, TRANSACTION_LETTERS_MAX))

    async def open_account(self, key: str, account_id: str, name: str) -> Account:
        """The account under its name. Raises Invalid."""
        check_text("account_id", account_id)
        check_text("name", name, NAME_LETTERS_MAX)
        await self._cashier.open_account(key, account_id, name)
        return await self.queries.account(account_id)


def _check(transaction_id: str, step: str, manner: Manner) -> None:
    """Raises Invalid."""
    check_text("transaction_id", transaction_id, TRANSACTION_LETTERS_MAX)
    check_text("step", step)
    if manner is not Manner.AT_ONCE and step != CHARGE:
        raise Invalid(f"the step of what is held or prepared is {CHARGE}")
    if manner is Manner.PREPARE and not transaction_id.isascii():
        raise Invalid("the transaction_id of what is prepared consists of ASCII characters")
