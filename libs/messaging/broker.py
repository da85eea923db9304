"""What messaging needs of a broker; it is transport, never truth, and may lose everything."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from libs.messaging.event import Delivery, OutgoingEvent


class StreamsLost(Exception):
    """The broker is not the one that was published to before: what it held is gone."""


class Publisher(Protocol):
    async def publish(self, source: str, epoch: str, events: Sequence[OutgoingEvent]) -> None:
        """Adds the events in order, all of them or none. Raises StreamsLost when `epoch` is not the broker's any more.

        Raises Unavailable when the broker cannot be reached; the events may then have been added.
        """
        ...

    async def begin(self, source: str, epoch: str) -> None:
        """Makes `epoch` the broker's, which holds until it loses its data."""
        ...

    async def current_epoch(self, source: str) -> str:
        """The epoch begun last; "" when the broker has none."""
        ...

    async def ends(self, topics: Sequence[str]) -> Mapping[str, str]:
        """The last entry of each stream of the topics."""
        ...

    async def consumed(self, ends: Mapping[str, str]) -> bool:
        """Whether every group has acknowledged each stream up to these entries; no group at all means no."""
        ...

    async def trim(self, ends: Mapping[str, str]) -> None:
        """Forgets what comes before these entries."""
        ...


class Subscriber(Protocol):
    async def read(
        self, group: str, consumer: str, topics: Sequence[str], count: int, seconds: float
    ) -> Sequence[Delivery]:
        """The next deliveries, waiting up to `seconds` for the first; creates the group when it is missing.

        What this consumer was given before and has not acknowledged comes first after `resume`.
        """
        ...

    async def resume(self, group: str, consumer: str, topics: Sequence[str], count: int) -> Sequence[Delivery]:
        """What this consumer, or one that died, was given and never acknowledged."""
        ...

    async def acknowledge(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """These need not be delivered to the group again."""
        ...
