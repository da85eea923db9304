"""Places a given number of orders with so many customers, each of whom waits for the end, but not for ever."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dockyard.load.drive import Ended, NoEnd, Tally, place_over_http
from dockyard.load.http import Connection
from dockyard.load.orders import Drawn
from libs.kernel.errors import DockyardError
from libs.runtime.clock import Clock


@dataclass(slots=True)
class Placed(Tally):
    """What came of the orders; `unended` are those whose customers gave up, `last_end` is by the monotonic clock."""

    unended: list[Drawn] = field(default_factory=list)
    last_end: float = 0.0

    @property
    def count(self) -> int:
        return len(self.ended) + len(self.failed) + len(self.unended)

    def reached(self, orders: float) -> bool:
        return self.count >= orders

    def add(self, other: "Placed") -> None:
        self.ended += other.ended
        self.failed += other.failed
        self.unended += other.unended


async def place_all(
    address: tuple[str, int],
    orders: Sequence[Drawn],
    customers: int,
    patience_seconds: float,
    clock: Clock,
    told: Placed,
) -> None:
    """Places them all, tells `told` of each as it ends, and returns when every customer knows or has given up."""
    waiting = iter(orders)

    async def customer() -> None:
        connection = Connection(*address)
        try:
            for drawn in waiting:
                try:
                    told.ended.append(await _placed(connection, address[0], drawn, patience_seconds, clock))
                    told.last_end = clock.monotonic()
                except (NoEnd, TimeoutError):
                    connection.close()
                    told.unended.append(drawn)
                except DockyardError as error:
                    told.failed.append((drawn, error.message))
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(customers, len(orders))):
            group.create_task(customer())


async def _placed(connection: Connection, host: str, drawn: Drawn, patience_seconds: float, clock: Clock) -> Ended:
    async with asyncio.timeout(patience_seconds):
        return await place_over_http(connection, host, drawn, clock)


async def when(done: Callable[[], bool], clock: Clock, until: Callable[[], bool]) -> bool:
    """Returns True once `done`, False when `until` came first; looks often, it costs nothing."""
    while not done():
        if until():
            return False
        await clock.sleep(0.02)
    return True
