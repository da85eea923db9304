"""What inventory's handlers and readers need from the world, in their own words."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from libs.tcc.barrier import Barrier
from libs.tcc.trail import Trail
from services.inventory.domain import Line, Product, Status


@dataclass(frozen=True, slots=True)
class Deduction:
    """What one transaction took, and what became of it."""

    transaction_id: str
    lines: tuple[Line, ...]
    status: Status


@dataclass(frozen=True, slots=True)
class NewDeduction:
    """One that is held asks what became of its transaction after `lease_ms`; every other has none."""

    deduction: Deduction
    lease_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A product as it is offered from now on, and the trace in which that was asked for."""

    product: Product
    traceparent: str


class Products(Protocol):
    async def lock(self, skus: Collection[str]) -> Mapping[str, Product]:
        """Those of these products that exist, held until the transaction ends; in order: nobody waits in a circle."""
        ...

    async def save_stock(self, products: Sequence[Product]) -> None:
        """Keeps the stock of products that were locked."""
        ...

    async def relist(self, products: Sequence[Product]) -> None:
        """Keeps the name, price and revision of products that were locked."""
        ...

    async def add(self, products: Sequence[Product]) -> None:
        """Adds new products. Raises Unavailable when somebody else added one of them meanwhile."""
        ...


class Catalogue(Protocol):
    async def announce(self, listings: Sequence[Listing]) -> None:
        """Tells the world, if the transaction commits."""
        ...


class Deductions(Protocol):
    async def add(self, new: Sequence[NewDeduction]) -> None: ...

    async def lock(self, transaction_ids: Collection[str]) -> Mapping[str, Deduction]:
        """The deductions of those of these transactions that have one, held until the transaction ends; in order."""
        ...

    async def save_statuses(self, deductions: Sequence[Deduction]) -> None:
        """Keeps the status of deductions that were locked; none of them is held any more."""
        ...


class Unit(Protocol):
    """One transaction: everything done through it commits together or not at all."""

    @property
    def products(self) -> Products: ...
    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def deductions(self) -> Deductions: ...
    @property
    def barrier(self) -> Barrier: ...


class Units(Protocol):
    def open(self) -> AbstractAsyncContextManager[Unit]:
        """Begins a transaction; leaving without an error commits it."""
        ...


class Queries(Protocol):
    async def get(self, sku: str) -> Product:
        """Raises NotFound."""
        ...

    async def many(self, skus: Sequence[str]) -> list[Product]:
        """Those of these products that exist, in this order."""
        ...

    async def page(self, after: str, limit: int) -> tuple[list[Product], str]:
        """Products by sku, and the key of the next page; "" at the end."""
        ...

    async def trail(self, transaction_id: str) -> Trail:
        """What inventory did for a transaction; nothing for one it does not know."""
        ...
