"""What the load needs to be there: a catalogue with stock, and carriers that serve the served zones."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from dockyard.load.http import Answer, Connection, post
from dockyard.load.orders import SERVED_ZONES, SOLD_OUT_SKU, catalogue
from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock

PRODUCTS_PER_REQUEST = 250
CARRIERS = (("gull-post", "Gull Post"), ("tide-freight", "Tide Freight"))
CATALOGUE_SECONDS = 30.0
REQUEST_SECONDS = 30.0
TRIES_MAX = 20
RETRY_SECONDS = 0.25

Addresses = Mapping[str, tuple[str, int]]
"""Host and HTTP port of each service, by its name."""


async def seed(addresses: Addresses, clock: Clock, *, run: str, stock: int, parcels_per_day: int) -> None:
    """Creates the catalogue and the carriers, then waits until the order service knows every price.

    Safe to repeat: every request carries an idempotency key, and what exists already stays.
    """
    products = catalogue(Random(0), stock)  # the same catalogue every time
    async with asyncio.TaskGroup() as group:
        group.create_task(_products(addresses["inventory"], products, run, clock))
        group.create_task(_carriers(addresses["shipping"], run, parcels_per_day, clock))
    await _catalogue_arrived(addresses["order"], run, clock)


async def _products(address: tuple[str, int], products: Sequence[dict[str, Any]], run: str, clock: Clock) -> None:
    connection = Connection(*address)
    for start in range(0, len(products), PRODUCTS_PER_REQUEST):
        body = msgspec.json.encode({"products": products[start : start + PRODUCTS_PER_REQUEST]})
        await _sent(connection, post(address[0], "/v1/products", body, key=f"{run}-products-{start}"), clock)
    connection.close()


async def _carriers(address: tuple[str, int], run: str, parcels_per_day: int, clock: Clock) -> None:
    connection = Connection(*address)
    zones = [{"zone": zone, "parcels_per_day": parcels_per_day} for zone in SERVED_ZONES]
    for carrier_id, name in CARRIERS:
        body = msgspec.json.encode({"carrier_id": carrier_id, "name": name, "zones": zones})
        await _sent(connection, post(address[0], "/v1/carriers", body, key=f"{run}-{carrier_id}"), clock)
    connection.close()


async def _sent(connection: Connection, request: bytes, clock: Clock) -> Answer:
    for _ in range(TRIES_MAX):
        try:
            answer = await connection.send(request, REQUEST_SECONDS)
        except (Unavailable, InDoubt):
            await clock.sleep(RETRY_SECONDS)
            continue
        if answer.status in {200, 201, 202}:
            return answer
        raise DockyardError(f"preparing the platform failed with HTTP {answer.status}: {answer.body[:300]!r}")
    raise Unavailable(f"preparing the platform failed {TRIES_MAX} times; is it up? try `dockyard status`")


async def _catalogue_arrived(address: tuple[str, int], run: str, clock: Clock) -> None:
    """Orders of a product that is not in the local copy yet are rejected as unknown: try with the last one listed.

    The probe is an order for the sold-out product, so it can never take anything.
    """
    connection = Connection(*address)
    until = clock.monotonic() + CATALOGUE_SECONDS
    attempt = 0
    while clock.monotonic() < until:
        attempt += 1
        answer = await _sent(connection, _probe(address[0], f"{run}-probe-{attempt}"), clock)
        if b"unknown-product" not in answer.body:
            connection.close()
            return
        await clock.sleep(RETRY_SECONDS)
    raise Unavailable(
        "the catalogue did not reach the order service; look at `dockyard logs order` and `logs inventory`"
    )


def _probe(host: str, key: str) -> bytes:
    address = {"name": "Probe", "street": "Quay 1", "city": "Dockside", "postcode": "00001", "zone": SERVED_ZONES[0]}
    body = {
        "customer_id": "probe",
        "lines": [{"sku": SOLD_OUT_SKU, "quantity": 1}],
        "card_token": "tok_ok",
        "ship_to": address,
    }
    return post(host, "/v1/orders", msgspec.json.encode(body), key=key, wait_seconds=10)
