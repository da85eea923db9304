"""The order service is killed at every durable write and every call of a saga: the end is the undisturbed one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from dockyard.audit.read import read
from dockyard.audit.rules import audit
from dockyard.local.platform import Platform
from dockyard.local.waiting import wait_until
from libs.runtime.clock import SystemClock
from tests.e2e.shop import ANTARCTICA, HARBOUR, Shop, fresh_key

ROOT = Path(__file__).parents[2]
READY_SECONDS = 30.0
DEATH_SECONDS = 20.0
END_SECONDS = 40.0

DOES = ("place-order", "deduct-stock", "charge", "book-shipment")
UNDOES = ("charge", "deduct-stock", "place-order")


def calls(operation: str, *steps: str) -> list[str]:
    return [f"saga.{moment}-call:{step}.{operation}" for step in steps for moment in ("before", "after")]


def writes(*kinds: str) -> list[str]:
    return [f"saga.{moment}-write:{kind}" for kind in kinds for moment in ("before", "after")]


# The first commit places the order, the second confirms or rejects it.
COMMITS = ["order.commit.before", "order.commit.after", "order.commit.before@2", "order.commit.after@2"]
SCENARIOS = {
    "confirmed": (HARBOUR, [*COMMITS, *calls("do", *DOES, "confirm-order"), *writes("lines", "PivotDecided", "Ended")]),
    "rejected": (
        ANTARCTICA,
        [
            *COMMITS[2:],
            *calls("do", "book-shipment"),
            *calls("undo", *UNDOES),
            *writes("UndoDecided", "Ended"),
        ],
    ),
}
# Reached only by a process that finds another's order unfinished: it is killed in its turn.
TAKEOVERS = writes("TakenUp")
CASES = [(outcome, point) for outcome, (_, points) in SCENARIOS.items() for point in points]


class OrderProcess:
    """The order service as a process of the test's own, which may be told where to die."""

    def __init__(self, platform: Platform) -> None:
        self._environ = {**os.environ, **platform.environment("order")}
        self._url = platform.urls["order"]
        self._log = (platform.home.logs / "order-sweep.log").open("a")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, failpoint: str = "") -> None:
        environ = self._environ | {"DOCKYARD_ORDER_FAILPOINT": failpoint}
        command = [sys.executable, "-m", "services.order.main"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=self._log, stderr=self._log)
        assert wait_until(self._ready, SystemClock(), READY_SECONDS), "the order service does not get ready"

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            # A place before the entrance opens, such as one in the recovery of an earlier order, kills it first.
            return self.process is not None and self.process.poll() is not None

    def died(self) -> bool:
        assert self.process is not None
        try:
            return self.process.wait(DEATH_SECONDS) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        """As abruptly as everywhere here: what a crash cannot harm, a quick end of a test cannot either."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEATH_SECONDS)

    def close(self) -> None:
        self.stop()
        self._log.close()


@pytest.fixture(scope="module")
def order_process(shop: Shop, platform: Platform) -> Iterator[OrderProcess]:
    platform.stop("order")
    process = OrderProcess(platform)
    yield process
    process.close()
    platform.restart("order")


def place_stubbornly(shop: Shop, key: str, ship_to: dict[str, str]) -> None:
    """Asks once; a client that gets no answer asks again under the same key, as `ending` does."""
    try:
        shop.place(ship_to=ship_to, key=key, wait=0)
    except httpx.HTTPError:
        return


def ending(shop: Shop, key: str, ship_to: dict[str, str]) -> str:
    """The id of the order that this key stands for, once it has ended."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        try:
            response = shop.place(ship_to=ship_to, key=key, wait=5)
        except httpx.HTTPError:
            return False
        found.update(response.json())
        return response.status_code in {201, 202} and found["status"] != "pending"

    assert wait_until(ended, SystemClock(), END_SECONDS), f"the order of {key} does not end: {found}"
    return str(found["order_id"])


async def traces_left(platform: Platform, order_id: str) -> dict[str, Any]:
    """Everything the order left behind in the five databases, without what differs from run to run."""
    queries = {
        "events": ("order", "SELECT type FROM events WHERE stream_id = $1 ORDER BY version"),
        "saga": ("order", "SELECT status, outcome, parked_reason FROM sagas WHERE saga_id = $1"),
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
    left: dict[str, Any] = {
        name: await _rows(platform, service, query, order_id) for name, (service, query) in queries.items()
    }
    payments = await _rows(platform, "payment", "SELECT payment_id FROM payments WHERE transaction_id = $1", order_id)
    charges = "SELECT amount_minor, refunded_minor FROM charges WHERE reference = $1"
    left["charges"] = [await _rows(platform, "psp", charges, payment_id) for (payment_id,) in payments]
    return left


async def _rows(platform: Platform, service: str, query: str, argument: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(platform.database_urls[service])
    try:
        return [tuple(row) for row in await connection.fetch(query, argument)]
    finally:
        await connection.close()


async def settled(platform: Platform, order_id: str) -> dict[str, Any]:
    """What is left once the saga has ended and shipping heard of it."""
    left: dict[str, Any] = {}
    for _ in range(200):
        left = await traces_left(platform, order_id)
        waiting = left["saga"][0][0] != "ended" or any(row[0] == "booked" for row in left["shipment"])
        if not waiting:
            break
        await SystemClock().sleep(0.05)
    return left


@pytest.fixture(scope="module")
def undisturbed(shop: Shop, platform: Platform, order_process: OrderProcess) -> dict[str, str]:
    """An order of each kind that nobody killed anything for."""
    order_process.start()
    orders = {outcome: ending(shop, fresh_key(), ship_to) for outcome, (ship_to, _) in SCENARIOS.items()}
    order_process.stop()
    return orders


def test_every_named_place_of_a_checkout_is_in_the_sweep() -> None:
    from libs.saga.executor import failpoints_of  # noqa: PLC0415
    from services.order.saga import CHECKOUT  # noqa: PLC0415

    # Nothing of a checkout is parked here: the participants are well, only the coordinator dies.
    unreached = set(writes("Parked")) | set(calls("undo", "book-shipment"))
    missed = set(failpoints_of(CHECKOUT)) - {point for _, point in CASES} - set(TAKEOVERS) - unreached
    assert missed == set()


@pytest.mark.parametrize(("outcome", "point"), CASES, ids=[f"{outcome}-{point}" for outcome, point in CASES])
async def test_killed_here_the_order_ends_as_if_nothing_had_happened(
    outcome: str, point: str, shop: Shop, platform: Platform, order_process: OrderProcess, undisturbed: dict[str, str]
) -> None:
    ship_to, _ = SCENARIOS[outcome]
    key = fresh_key()
    killed_at(point, shop, order_process, key, ship_to)
    order_process.start()
    order_id = ending(shop, key, ship_to)
    left = await settled(platform, order_id)
    order_process.stop()
    assert left == await settled(platform, undisturbed[outcome])


@pytest.mark.parametrize("point", TAKEOVERS)
async def test_killed_again_while_taking_over_the_order_ends_all_the_same(
    point: str, shop: Shop, platform: Platform, order_process: OrderProcess, undisturbed: dict[str, str]
) -> None:
    key = fresh_key()
    killed_at("saga.after-call:charge.do", shop, order_process, key, HARBOUR)
    order_process.start(point)
    assert order_process.died(), f"{point} was not reached"
    order_process.start()
    order_id = ending(shop, key, HARBOUR)
    left = await settled(platform, order_id)
    order_process.stop()
    assert left == await settled(platform, undisturbed["confirmed"])


def killed_at(point: str, shop: Shop, order_process: OrderProcess, key: str, ship_to: dict[str, str]) -> None:
    """Places an order with a service that dies at this place on the way."""
    order_process.start(point)
    customer = threading.Thread(target=place_stubbornly, args=(shop, key, ship_to))
    customer.start()
    assert order_process.died(), f"{point} was not reached"
    customer.join()


async def test_after_the_sweep_the_audit_is_clean(platform: Platform, order_process: OrderProcess) -> None:
    order_process.start()
    violations = []
    for _ in range(100):
        violations = audit(await read(platform.database_urls))
        if not violations:
            break
        await SystemClock().sleep(0.1)
    order_process.stop()
    assert violations == []
