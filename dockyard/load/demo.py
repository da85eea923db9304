"""The demonstration: real orders through both entrances, two services killed on the way, everything accounted for."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from dockyard.audit.rules import Violation
from dockyard.audit.run import Report, audit_databases
from dockyard.load.drive import Tally, check_allowed, place_over_http
from dockyard.load.grpc import place_over_grpc
from dockyard.load.http import Connection, get
from dockyard.load.orders import Draw, Drawn, Lines, Twist
from dockyard.load.seed import seed
from dockyard.local.platform import Platform
from libs.kernel.errors import DockyardError
from libs.runtime.clock import Clock, Ids
from libs.runtime.grpc_edge import channel
from proto.order.v1 import order_pb2_grpc

CUSTOMERS = 24
# Killed when this share of the orders has ended: first where the money is, then the coordinator itself.
KILLS = ((0.3, "payment"), (0.6, "order"))
STOCK = 100_000
PARCELS_PER_DAY = 10_000
SETTLE_SECONDS = 90.0
TIMELINE_SECONDS = 10.0

# TPC-C's one in a hundred unknown items, and what else goes wrong in a day.
SHARES: Mapping[Twist, float] = {
    Twist.UNKNOWN_ITEM: 0.01,
    Twist.SOLD_OUT: 0.03,
    Twist.DECLINED_CARD: 0.05,
    Twist.UNSERVED_ZONE: 0.05,
    Twist.LOST_RESPONSE: 0.03,
    Twist.FLAKY_PROCESSOR: 0.03,
}

# How an order must end, by its twist; the audit then checks that what it left behind agrees.
EXPECTED: Mapping[Twist, tuple[str, frozenset[str]]] = {
    Twist.NONE: ("confirmed", frozenset({""})),
    Twist.LOST_RESPONSE: ("confirmed", frozenset({""})),
    Twist.FLAKY_PROCESSOR: ("confirmed", frozenset({""})),
    Twist.UNKNOWN_ITEM: ("rejected", frozenset({"unknown-product"})),
    Twist.SOLD_OUT: ("rejected", frozenset({"out-of-stock"})),
    Twist.DECLINED_CARD: ("rejected", frozenset({"card-declined"})),
    Twist.UNSERVED_ZONE: ("rejected", frozenset({"zone-not-served"})),
}


class TimelineEntry(msgspec.Struct):
    at: str
    service: str
    what: str
    detail: str


class Timeline(msgspec.Struct):
    order_id: str
    state: str
    entries: list[TimelineEntry]


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in one demonstration."""

    coordination: str
    tally: Tally
    kills: tuple[tuple[str, int], ...]
    timeline: Timeline | None
    report: Report
    seconds: float

    @property
    def surprises(self) -> tuple[str, ...]:
        """Orders that did not end the way their twist demands."""
        return tuple(
            f"{one.order_id} ({one.drawn.twist}): {one.status} {one.reason}"
            for one in self.tally.ended
            if one.status != EXPECTED[one.drawn.twist][0] or one.reason not in EXPECTED[one.drawn.twist][1]
        )

    @property
    def violations(self) -> tuple[Violation, ...]:
        return self.report.violations


Progress = Callable[[int, int, str], None]
"""Told how many orders have ended, of how many, and what just happened (or "")."""


class Demonstration:
    """One run against a platform that is up; its kills are of this platform's own processes only."""

    def __init__(self, platform: Platform, orders: int, coordination: str, clock: Clock, progress: Progress) -> None:
        self._platform = platform
        self._orders = orders
        self._clock = clock
        self._progress = progress
        run = Ids(clock).new("demo")
        self._run = run
        self._coordination = coordination
        draw = Draw(clock.unix_ms(), SHARES, Lines.TPCC, run, coordination)
        self._waiting: Iterator[Drawn] = iter([draw.next() for _ in range(orders)])
        self._tally = Tally()
        self._killed: list[tuple[str, int]] = []

    async def play(self) -> Story:
        """Raises Invalid when the platform does not take orders of this style."""
        began = self._clock.monotonic()
        addresses = {name: (one.host, one.http_port) for name, one in self._platform.addresses.items()}
        await check_allowed(*addresses["order"], self._coordination, self._clock)
        self._progress(0, self._orders, "loading a catalogue of 1,000 products")
        await seed(addresses, self._clock, run=self._run, stock=STOCK, parcels_per_day=PARCELS_PER_DAY)
        self._progress(
            0, self._orders, f"placing {self._orders} {self._coordination} orders over REST and gRPC at once"
        )
        await self._place_all()
        seconds = self._clock.monotonic() - began
        self._progress(self._orders, self._orders, "auditing")
        report = await audit_databases(self._platform.database_urls, self._clock, SETTLE_SECONDS, self._tell)
        timeline = await self._timeline(addresses["order"])
        return Story(self._coordination, self._tally, tuple(self._killed), timeline, report, seconds)

    async def _place_all(self) -> None:
        order = self._platform.addresses["order"]
        async with channel(f"{order.host}:{order.grpc_port}") as opened:
            stub = order_pb2_grpc.OrderServiceStub(opened)
            async with asyncio.TaskGroup() as group:
                for number in range(CUSTOMERS):
                    if number % 2:
                        group.create_task(self._grpc_customer(stub))
                    else:
                        group.create_task(self._http_customer(order.host, order.http_port))
                group.create_task(self._killer())

    async def _http_customer(self, host: str, port: int) -> None:
        connection = Connection(host, port)
        for drawn in self._waiting:
            try:
                self._tally.ended.append(await place_over_http(connection, host, drawn, self._clock))
            except DockyardError as error:
                self._tally.failed.append((drawn, error.message))
            self._tell("")
        connection.close()

    async def _grpc_customer(self, stub: "order_pb2_grpc.OrderServiceAsyncStub") -> None:
        for drawn in self._waiting:
            try:
                self._tally.ended.append(await place_over_grpc(stub, drawn, self._clock))
            except DockyardError as error:
                self._tally.failed.append((drawn, error.message))
            self._tell("")

    async def _killer(self) -> None:
        for share, service in KILLS:
            while self._done < share * self._orders:
                await self._clock.sleep(0.02)
            pid = self._platform.kill(service, signal.SIGKILL)
            self._killed.append((service, pid))
            self._tell(f"SIGKILL to {service} (pid {pid})")

    @property
    def _done(self) -> int:
        return len(self._tally.ended) + len(self._tally.failed)

    def _tell(self, what: str) -> None:
        self._progress(self._done, self._orders, what)

    async def _timeline(self, address: tuple[str, int]) -> Timeline | None:
        """The story of one order that was undone, or of any."""
        undone = [one for one in self._tally.ended if one.drawn.twist is Twist.UNSERVED_ZONE]
        chosen = next(iter(undone or self._tally.ended), None)
        if chosen is None:
            return None
        connection = Connection(*address)
        answer = await connection.send(get(address[0], f"/v1/orders/{chosen.order_id}/timeline"), TIMELINE_SECONDS)
        connection.close()
        return msgspec.json.decode(answer.body, type=Timeline)
