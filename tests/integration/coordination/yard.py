"""A whole platform whose services can be killed one by one, and the questions that the contract asks of it."""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import redis

from dockyard.audit.rules import Violation
from dockyard.audit.run import audit_databases
from dockyard.local.platform import Platform
from dockyard.local.waiting import wait_until
from libs.messaging.redis_streams import stream_of
from libs.runtime.clock import SystemClock
from tests.e2e.shop import HARBOUR, Shop, fresh_key
from tests.integration.coordination.forked import SERVICES, Forked

HONEST = ("orchestrated", "choreographed", "tcc", "twophase")
NAIVE = "naive"
END_SECONDS = 60.0
SETTLE_SECONDS = 30.0
# A naive order that nobody works on stays pending for ever; the slow card takes less than this.
NAIVE_SECONDS = 4.0
TOPICS = ("orders", "checkouts")


class Broken(AssertionError):
    """A promise of the contract was not kept."""


def expect(holds: bool, otherwise: str) -> None:
    """Raises Broken."""
    if not holds:
        raise Broken(otherwise)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to place an order, which its customer repeats under its key until it is heard."""

    key: str
    body: Mapping[str, Any]

    @property
    def style(self) -> str:
        return str(self.body["coordination"])


class Yard:
    """Places orders of any style, kills services, and judges what is left."""

    def __init__(self, platform: Platform, shop: Shop, settings: Mapping[str, Mapping[str, str]]) -> None:
        self.platform = platform
        self.shop = shop
        self._settings = settings
        self.services = {
            name: Forked(name, platform.environment(name), platform.urls[name], platform.home.log(f"{name}-forked"))
            for name in SERVICES
        }
        self.redis = redis.Redis.from_url(platform.redis_url)

    def open(self) -> None:
        """Takes the platform's services over and has something to sell."""
        for name in SERVICES:
            self.platform.stop(name)
            self.start(name)
        self.shop.open()

    def close(self) -> None:
        for service in self.services.values():
            service.kill()
        self.redis.close()

    def start(self, service: str, failpoint: str = "", **settings: str) -> None:
        self.services[service].start(failpoint, **{**self._settings.get(service, {}), **settings})

    def restart(self, service: str, failpoint: str = "", **settings: str) -> None:
        """Ended as abruptly as everything here, and started again."""
        self.services[service].kill()
        self.start(service, failpoint, **settings)

    def leave_out(self, part: str, services: Collection[str]) -> None:
        """These services run without the part from now on; "" gives it back to them."""
        for name in services:
            self.services[name].without = part
            self.restart(name)

    # Orders.

    def wanted(
        self,
        style: str,
        *,
        lines: Mapping[str, int] | None = None,
        card: str = "tok_ok",
        ship_to: Mapping[str, str] = HARBOUR,
    ) -> Wanted:
        body = self.shop.body(lines=lines, card=card, ship_to=ship_to, coordination=style)
        return Wanted(fresh_key(style), body)

    def send(self, wanted: Wanted, wait: int = 0) -> httpx.Response | None:
        """One request; None when it was not heard."""
        try:
            return self.shop.post("order", "/v1/orders", wanted.body, key=wanted.key, prefer=f"wait={wait}")
        except httpx.HTTPError:
            return None

    def place(self, wanted: Wanted) -> str:
        """The order's id as soon as the request was heard."""
        found = self._heard(wanted, lambda order: True, 0, END_SECONDS)
        expect(bool(found), f"the order service does not take {wanted.key}")
        return str(found["order_id"])

    def ending(self, wanted: Wanted) -> dict[str, Any]:
        """The order once it has ended. Raises Broken when it does not."""
        found = self._heard(wanted, lambda order: order["status"] != "pending", 5, _patience(wanted.style))
        expect(bool(found), f"the {wanted.style} order of {wanted.key} does not end")
        return found

    def _heard(
        self, wanted: Wanted, enough: Callable[[dict[str, Any]], bool], wait: int, seconds: float
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def heard() -> bool:
            response = self.send(wanted, wait)
            if response is None or response.status_code not in {200, 201, 202}:
                return False
            order = response.json()
            if enough(order):
                found.update(order)
            return bool(found)

        wait_until(heard, SystemClock(), seconds)
        return found

    def in_background(self, wanted: Wanted) -> threading.Thread:
        """Somebody sends the request once, while others watch what happens."""
        customer = threading.Thread(target=self.send, args=(wanted,))
        customer.start()
        return customer

    def cancel(self, order_id: str) -> None:
        """Asked until it is heard."""
        key = fresh_key("cancel")

        def heard() -> bool:
            try:
                response = self.shop.post("order", f"/v1/orders/{order_id}/cancel", {"reason": "rain"}, key=key)
            except httpx.HTTPError:
                return False
            return response.status_code in {200, 202}

        expect(wait_until(heard, SystemClock(), END_SECONDS), f"the cancellation of {order_id} is not heard")

    def order(self, order_id: str) -> dict[str, Any]:
        return dict(self.shop.get("order", f"/v1/orders/{order_id}").json())

    def reaches(self, order_id: str, *statuses: str) -> str:
        """The status once it is one of these. Raises Broken."""
        seconds = _patience(str(self.order(order_id)["coordination"]))
        seen = [""]

        def reached() -> bool:
            seen[0] = str(self.order(order_id)["status"])
            return seen[0] in statuses

        expect(wait_until(reached, SystemClock(), seconds), f"{order_id} is {seen[0]}, not {' or '.join(statuses)}")
        return seen[0]

    def timeline(self, order_id: str) -> dict[str, Any]:
        return dict(self.shop.get("order", f"/v1/orders/{order_id}/timeline").json())

    def list_product(self, sku: str, on_hand: int) -> None:
        """Something new to sell, known to the order service when this returns."""
        price = {"minor_units": 1000, "currency": "EUR"}
        products = [{"sku": sku, "name": sku, "price": price, "on_hand": on_hand}]
        self.shop.post("inventory", "/v1/products", {"products": products}).raise_for_status()
        query = "SELECT sku FROM catalogue WHERE sku = $1"
        known = wait_until(lambda: bool(self.rows("order", query, sku)), SystemClock(), END_SECONDS)
        assert known, f"{sku} never reached the order service"

    # What is left.

    def rows(self, service: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return asyncio.run(_rows(self.platform.database_urls[service], query, arguments))

    def until(self, service: str, query: str, *arguments: Any) -> None:
        """Returns when the query answers something. Raises Broken."""
        found = wait_until(lambda: bool(self.rows(service, query, *arguments)), SystemClock(), END_SECONDS)
        expect(found, f"in {service} this never holds: {query} {arguments}")

    def violations(self, order_ids: Collection[str]) -> list[Violation]:
        """What the audit finds about these orders, and about nobody's in particular, at rest."""
        report = asyncio.run(
            audit_databases(self.platform.database_urls, SystemClock(), SETTLE_SECONDS, lambda _: None)
        )
        return [one for one in report.violations if _concerns(one, order_ids)]

    def check(self, style: str, *order_ids: str) -> None:
        """The audit is clean, and so are the style's own promises. Raises Broken."""
        found = self.violations(order_ids)
        expect(not found, "\n".join(f"{one.guarantee} {one.rule} {one.ids}: {one.message}" for one in found))
        for order_id in order_ids:
            self._keeps_nothing_back(order_id)
            self._its_log_rests(style, order_id)
            if style in {"tcc", "twophase"} and self.order(order_id)["status"] == "rejected":
                self._statement_is_empty(order_id)

    def _keeps_nothing_back(self, order_id: str) -> None:
        """No hold is left, and nothing is prepared."""
        held = {
            "inventory": "SELECT status FROM deductions WHERE transaction_id = $1 AND status = 'held'",
            "payment": "SELECT status FROM payments WHERE transaction_id = $1"
            " AND status NOT IN ('charged', 'declined', 'refunded', 'voided')",
            "shipping": "SELECT status FROM shipments WHERE transaction_id = $1 AND status = 'held'",
        }
        for service, query in held.items():
            left = self.rows(service, query, order_id)
            expect(not left, f"{service} still keeps {left} of {order_id}")
        prepared = self.rows("order", "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '%/' || $1", order_id)
        expect(not prepared, f"still prepared: {prepared}")

    def _its_log_rests(self, style: str, order_id: str) -> None:
        table = "choreographies WHERE order_id" if style == "choreographed" else "sagas WHERE saga_id"
        if style != NAIVE:
            statuses = {row[0] for row in self.rows("order", f"SELECT status FROM {table} = $1", order_id)}  # noqa: S608
            expect(statuses <= {"ended", "parked"} and bool(statuses), f"the log of {order_id} is {statuses}")

    def _statement_is_empty(self, order_id: str) -> None:
        """A refused order of a style that holds leaves no charge: neither in the ledger nor at the processor."""
        postings = self.rows(
            "payment", "SELECT memo FROM postings JOIN payments USING (payment_id) WHERE transaction_id = $1", order_id
        )
        expect(not postings, f"the statement shows {postings} of {order_id}")
        for (payment_id,) in self.rows(
            "payment", "SELECT payment_id FROM payments WHERE transaction_id = $1", order_id
        ):
            taken = self.rows(
                "psp", "SELECT status FROM charges WHERE reference = $1 AND status = 'captured'", payment_id
            )
            expect(not taken, f"the processor took the money of {order_id}")

    def left_behind(self, order_id: str) -> dict[str, Any]:
        """Everything the order left in the five databases, without what differs from run to run."""
        queries = {
            "events": ("order", "SELECT type FROM events WHERE stream_id = $1 ORDER BY version"),
            "saga": ("order", "SELECT status, outcome, parked_reason FROM sagas WHERE saga_id = $1"),
            "choreography": ("order", "SELECT status, parked_reason FROM choreographies WHERE order_id = $1"),
            "stock": ("inventory", "SELECT status, lines::text FROM deductions WHERE transaction_id = $1"),
            "payment": ("payment", "SELECT status, amount_minor FROM payments WHERE transaction_id = $1"),
            "ledger": (
                "payment",
                """
                SELECT account, postings.amount_minor, memo FROM postings JOIN payments USING (payment_id)
                 WHERE transaction_id = $1 ORDER BY posting_id
                """,
            ),
            "shipment": ("shipping", "SELECT status, zone, parcels FROM shipments WHERE transaction_id = $1"),
        }
        left: dict[str, Any] = {name: self.rows(service, query, order_id) for name, (service, query) in queries.items()}
        payments = self.rows("payment", "SELECT payment_id FROM payments WHERE transaction_id = $1", order_id)
        charges = "SELECT status, amount_minor, refunded_minor FROM charges WHERE reference = $1"
        left["charges"] = [self.rows("psp", charges, payment_id) for (payment_id,) in payments]
        return left

    def at_rest(self, order_id: str) -> dict[str, Any]:
        """What is left once nothing moves any more: the coordinator rests, and shipping has heard of it."""
        left: dict[str, Any] = {}

        def rests() -> bool:
            left.update(self.left_behind(order_id))
            logs = [row[0] for row in (*left["saga"], *left["choreography"])]
            confirmed = "OrderConfirmed" in str(left["events"])
            waiting = any(row[0] in {"held", "booked"} for row in left["shipment"]) and confirmed
            return all(status in {"ended", "parked"} for status in logs) and not waiting

        wait_until(rests, SystemClock(), SETTLE_SECONDS)
        return left

    # Messages.

    def messages(self, order_id: str) -> list[tuple[str, dict[bytes, bytes]]]:
        """Every message about an order that the broker still has, with its stream, oldest first."""
        found = []
        for topic in TOPICS:
            stream = stream_of(topic, order_id)
            entries: Sequence[Any] = self.redis.xrange(stream)  # type: ignore[assignment]  # it is not asyncio's
            found += [(stream, fields) for _, fields in entries if fields[b"subject"] == order_id.encode()]
        return found

    def repeat(self, order_id: str) -> int:
        """Delivers every message about an order once more; how many that were."""
        again = self.messages(order_id)
        for stream, fields in again:
            self.redis.xadd(stream, fields)  # type: ignore[arg-type]  # bytes are what it came as
        return len(again)

    def read_by_all(self, away: str = "") -> None:
        """Returns when every consumer group but those of who is away has acknowledged everything on every stream."""

        behind = [""]

        def read() -> bool:
            streams = self.redis.scan_iter("dockyard:*:[0-9]")
            behind[:] = [group for stream in streams for group in self._behind(stream, away)]
            return not behind

        expect(wait_until(read, SystemClock(), SETTLE_SECONDS), f"never acknowledged by {', '.join(behind)}")

    def _behind(self, stream: bytes, away: str) -> list[str]:
        """The groups that have not acknowledged everything on a stream."""
        end: Any = self.redis.xinfo_stream(stream)
        groups: Any = self.redis.xinfo_groups(stream)
        last = end["last-generated-id"]
        names = [group["name"].decode() for group in groups if group["pending"] or group["last-delivered-id"] != last]
        return [f"{name} on {stream.decode()}" for name in names if not away or not name.startswith(f"{away}-")]


def _patience(style: str) -> float:
    return NAIVE_SECONDS if style == NAIVE else END_SECONDS


def _concerns(violation: Violation, order_ids: Collection[str]) -> bool:
    orders = {one for one in violation.ids if one.startswith("ord_")}
    return not orders or bool(orders & set(order_ids))


async def _rows(url: str, query: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()
