"""What the card processor's readers need from its memory."""

from typing import Protocol

from services.psp.domain import Charge


class Queries(Protocol):
    async def page(self, reference: str, after: str, limit: int) -> tuple[list[Charge], str]:
        """Charges by id, all or those under a merchant's reference, and the key of the next page; "" at the end."""
        ...

    async def by_key(self, key: str) -> list[Charge]:
        """The charge under this Idempotency-Key, if there is one."""
        ...
