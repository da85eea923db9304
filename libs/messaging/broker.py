"""What messaging needs of a broker; it is transport, never truth, and may lose everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from libs.messaging.event import Delivery, OutgoingEvent
from libs.runtime.position import Position


class StreamsLost(Exception):
    """The broker does not hold what was published to it before: some or all of that is gone."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a broker remembers of a source: it was given everything up to `position`, since `epoch` began.

    It is kept beside the events and changes with them. A broker that lost everything has none; one that came back with
    what it knew earlier has an older one.
    """

    epoch: str
    position: Position

    def covers(self, other: "Mark") -> bool:
        """Whether everything the other speaks of is there."""
        return self.epoch == other.epoch and self.position >= other.position


class Publisher(Protocol):
    async def publish(self, source: str, after: Mark, upto: Position, events: Sequence[OutgoingEvent]) -> None:
        """Adds the events in order, all of them or none, and moves the mark to `upto`; it never moves back.

        Raises StreamsLost when the broker's mark does not cover `after`. Raises Unavailable when the broker cannot be
        reached; the events may then have been added.
        """
        ...

    async def begin(self, source: str, mark: Mark) -> None:
        """Makes `mark` the source's, whatever it was."""
        ...

    async def mark(self, source: str) -> Mark | None:
        """The source's mark; None when the broker knows nothing of it."""
        ...

    async def ends(self, topics: Sequence[str]) -> Mapping[str, str]:
        """The last entry of each stream of the topics."""
        ...

    async def consumed(self, ends: Mapping[str, str]) -> bool:
        """Whether every group has acknowledged each stream up to these entries; no group at all means no.

        Raises StreamsLost when one of the streams is gone.
        """
        ...

    async def trim(self, ends: Mapping[str, str]) -> None:
        """Forgets what comes before these entries, or some of it."""
        ...


class Subscriber(Protocol):
    async def read(
        self, group: str, consumer: str, topics: Sequence[str], count: int, seconds: float
    ) -> Sequence[Delivery]:
        """The next deliveries, at most `count` of each stream, waiting up to `seconds` for the first.

        Nobody else of the group is given them. Everything about one subject comes in order. Creates the group, from the
        beginning of what is there, when it is missing.
        """
        ...

    async def resume(self, group: str, consumer: str, topics: Sequence[str], count: int) -> Sequence[Delivery]:
        """What this consumer, or one that died, was given and never acknowledged, in order; never waits."""
        ...

    async def acknowledge(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """These need not be delivered to the group again."""
        ...
