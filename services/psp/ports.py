"""What the card processor's readers need from its memory."""

from typing import Protocol

from services.psp.domain import Charge


class Queries(Protocol):
    async def by_reference(self, reference: str) -> list[Charge]:
        """Every charge under the merchant's own reference, oldest first."""
        ...

    async def page(self, after: str, limit: int) -> tuple[list[Charge], str]:
        """Charges by id, and the key of the next page; "" at the end."""
        ...
