"""A small shop on a real platform: something to sell, somebody who carries it, and the requests that tests make."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from dockyard.local.platform import Platform
from dockyard.local.waiting import wait_until
from libs.runtime.clock import SystemClock

PRODUCTS = {"lamp": 4900, "rope": 250, "buoy": 15_000}
STOCK = 1_000_000
HARBOUR = {"name": "Ada", "street": "Quay 1", "city": "Hamburg", "postcode": "20457", "zone": "DE"}
ANTARCTICA = HARBOUR | {"zone": "AQ"}
REQUEST_SECONDS = 40.0
SEEN_SECONDS = 20.0


def fresh_key(prefix: str = "test") -> str:
    return f"{prefix}-{secrets.token_hex(8)}"


@dataclass(slots=True)
class Shop:
    platform: Platform
    client: httpx.Client

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.client = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)

    def open(self) -> None:
        """Lists the products, hires a carrier, and waits until orders know the prices."""
        products = [
            {"sku": sku, "name": sku.title(), "price": {"minor_units": price, "currency": "EUR"}, "on_hand": STOCK}
            for sku, price in PRODUCTS.items()
        ]
        self.post("inventory", "/v1/products", {"products": products}).raise_for_status()
        carrier = {"carrier_id": "gull", "name": "Gull", "zones": [{"zone": "DE", "parcels_per_day": 100_000}]}
        self.post("shipping", "/v1/carriers", carrier).raise_for_status()
        assert wait_until(self._prices_known, SystemClock(), SEEN_SECONDS), "the catalogue never arrived at order"

    def _prices_known(self) -> bool:
        order = self.place(lines=dict.fromkeys(PRODUCTS, 1), ship_to=ANTARCTICA).json()
        return bool(order["reason"] != "unknown-product")

    def close(self) -> None:
        self.client.close()

    def url(self, service: str, path: str) -> str:
        return self.platform.urls[service] + path

    def get(self, service: str, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.url(service, path), headers=_headers(headers))

    def post(self, service: str, path: str, body: Any = None, *, key: str = "", **headers: str) -> httpx.Response:
        given = {"Idempotency-Key": key or fresh_key(), **_headers(headers)}
        return self.client.post(self.url(service, path), json=body, headers=given)

    def place(
        self,
        *,
        lines: Mapping[str, int] | None = None,
        card: str = "tok_ok",
        ship_to: Mapping[str, str] | None = None,
        customer: str = "ada",
        coordination: str = "orchestrated",
        key: str = "",
        wait: int = 20,
        **headers: str,
    ) -> httpx.Response:
        body = self.body(lines=lines, card=card, ship_to=ship_to, customer=customer, coordination=coordination)
        return self.post("order", "/v1/orders", body, key=key, prefer=f"wait={wait}" if wait else "", **headers)

    def body(
        self,
        *,
        lines: Mapping[str, int] | None = None,
        card: str = "tok_ok",
        ship_to: Mapping[str, str] | None = None,
        customer: str = "ada",
        coordination: str = "orchestrated",
    ) -> dict[str, Any]:
        return {
            "customer_id": customer,
            "coordination": coordination,
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in (lines or {"lamp": 2}).items()],
            "card_token": card,
            "ship_to": dict(ship_to or HARBOUR),
        }

    def eventually(self, order_id: str, status: str) -> dict[str, Any]:
        """The order once readers see it in this status."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.get("order", f"/v1/orders/{order_id}").json())
            return bool(seen["status"] == status)

        assert wait_until(reached, SystemClock(), SEEN_SECONDS), f"{order_id} is {seen['status']}, not {status}"
        return seen


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items() if value}
