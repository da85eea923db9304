"""What payment's handlers and readers need from the world, in their own words."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from libs.kernel.errors import Refused
from libs.kernel.money import Money
from libs.tcc.barrier import Barrier, Key
from libs.tcc.trail import Trail
from services.payment.domain import Entry, Payment, Verdict


class Processor(Protocol):
    """The card processor. Every call is idempotent under the payment's id.

    They raise Unavailable when nothing happened, InDoubt when it may have.
    """

    async def charge(self, payment: Payment) -> Verdict:
        """Takes the payment's amount from its card, once; every repeat gives the same verdict."""
        ...

    async def authorise(self, payment: Payment) -> Verdict:
        """Sets the payment's amount aside on its card, once; after a void the verdict is GivenUp."""
        ...

    async def capture(self, payment: Payment) -> None:
        """Takes what was authorised, once; returns when the processor has done so."""
        ...

    async def void(self, payment: Payment) -> None:
        """Gives up an authorisation, also one that has not arrived and may arrive later; returns when that is sure."""
        ...

    async def refund(self, payment: Payment) -> None:
        """Gives back all of a charge, once; returns when the processor has done so."""
        ...


@dataclass(frozen=True, slots=True)
class NewPayment:
    """One that is to be authorised asks what became of its transaction after `lease_ms`; every other has none."""

    payment: Payment
    lease_ms: int | None = None


class Payments(Protocol):
    async def lock(self, transactions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Payment]:
        """The payments of these (transaction, step) pairs, held until the transaction ends."""
        ...

    async def add(self, new: Sequence[NewPayment]) -> None:
        """Adds new payments, opening the accounts that do not exist yet."""
        ...

    async def save(self, payments: Sequence[Payment]) -> None: ...

    async def post(self, entries: Sequence[Entry]) -> None:
        """Adds ledger entries; an entry that exists stays as it is."""
        ...

    async def name_accounts(self, names: Mapping[str, str]) -> None:
        """Gives accounts their names, opening those that do not exist yet."""
        ...


class Announcements(Protocol):
    async def say(self, answered: Sequence[tuple[Key, str | Refused]]) -> None:
        """Says what is owed of these effects, if anything is: the payment's id, or why there is none."""
        ...


class Unit(Protocol):
    """One transaction: everything done through it commits together or not at all."""

    @property
    def payments(self) -> Payments: ...
    @property
    def barrier(self) -> Barrier: ...
    @property
    def announcements(self) -> Announcements: ...


class Units(Protocol):
    def open(self) -> AbstractAsyncContextManager[Unit]:
        """Begins a transaction; leaving without an error commits it."""
        ...


class Unfinished(Protocol):
    async def unfinished(self, before: datetime, after: Payment | None, limit: int) -> Sequence[Payment]:
        """Payments made `before` whose processor has not been heard of yet, oldest first, from the one `after` on."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """`charged`: what the customer has been charged on balance, in the currency of the first charge."""

    account_id: str
    name: str
    charged: Money


@dataclass(frozen=True, slots=True)
class Posting:
    posting_id: int
    entry_id: str
    account: str
    amount: Money
    memo: str
    payment_id: str
    posted_at: datetime


class Queries(Protocol):
    async def account(self, account_id: str) -> Account:
        """Raises NotFound."""
        ...

    async def postings(self, account_id: str, before: str, limit: int) -> tuple[list[Posting], str]:
        """The account's statement, newest first, and the key of the next page; "" at the end. Raises NotFound."""
        ...

    async def payment(self, payment_id: str) -> Payment:
        """Raises NotFound."""
        ...

    async def trail(self, transaction_id: str) -> Trail:
        """What payment did for a transaction; nothing for one it does not know."""
        ...
