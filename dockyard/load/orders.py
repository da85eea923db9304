"""Orders drawn as TPC-C's New-Order draws them (TPC-C v5.11, §2.1.6 and §2.4.1), for a catalogue of 1,000 products."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

PRODUCTS = 1000
CUSTOMERS = 3000
LINES_MIN, LINES_MAX = 5, 15
QUANTITY_MAX = 10
# NURand's A for a range of this size; C is drawn once per run.
ITEM_A = 255
CUSTOMER_A = 1023

# A naive order whose caller is gone stays pending for ever: who waits for it longer than its calls can take waits in
# vain. Any other ends, sooner or later.
NAIVE_PATIENCE_SECONDS = 15.0
PATIENCE_SECONDS = 1200.0

SERVED_ZONES = ("DE", "FR", "NL", "AT", "DK", "PL")
UNSERVED_ZONE = "AQ"
UNKNOWN_SKU = "SKU-UNKNOWN"
SOLD_OUT_SKU = "SKU-SOLD-OUT"


class Lines(StrEnum):
    """How many lines an order has: one, or 5 to 15 as in TPC-C."""

    ONE = "one"
    TPCC = "tpcc"


class Coordination(StrEnum):
    """How an order is coordinated. The naive way has neither a log nor an undo: it is there to fail."""

    ORCHESTRATED = "orchestrated"
    CHOREOGRAPHED = "choreographed"
    TCC = "tcc"
    TWO_PHASE = "twophase"
    NAIVE = "naive"


class Twist(StrEnum):
    """What is wrong with an order, and so how it must end."""

    NONE = "none"
    UNKNOWN_ITEM = "unknown-item"
    SOLD_OUT = "sold-out"
    DECLINED_CARD = "declined-card"
    UNSERVED_ZONE = "unserved-zone"
    LOST_RESPONSE = "lost-response"
    FLAKY_PROCESSOR = "flaky-processor"


CARDS: Mapping[Twist, str] = {
    Twist.DECLINED_CARD: "tok_declined",
    Twist.LOST_RESPONSE: "tok_lost_response",
    Twist.FLAKY_PROCESSOR: "tok_flaky",
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One order request and the twist it was given."""

    key: str
    twist: Twist
    body: dict[str, Any]

    @property
    def patience_seconds(self) -> float:
        """How long its customer waits for its end."""
        return NAIVE_PATIENCE_SECONDS if self.body["coordination"] == Coordination.NAIVE else PATIENCE_SECONDS


def sku(number: int) -> str:
    return f"SKU-{number:04d}"


def catalogue(random: Random, stock: int) -> list[dict[str, Any]]:
    """1,000 products priced 1.00 to 100.00 (§4.3.3.1), and one that is sold out."""
    products = [_product(sku(number), random.randint(100, 10_000), stock) for number in range(1, PRODUCTS + 1)]
    return [*products, _product(SOLD_OUT_SKU, 999, 0)]


def _product(code: str, price_minor: int, on_hand: int) -> dict[str, Any]:
    return {
        "sku": code,
        "name": f"Product {code}",
        "price": {"minor_units": price_minor, "currency": "EUR"},
        "on_hand": on_hand,
    }


def unobtainable(key: str, coordination: str) -> Drawn:
    """An order for what no catalogue has: rejected as soon as it is placed, whatever its style."""
    body = {
        "customer_id": "probe",
        "lines": [{"sku": UNKNOWN_SKU, "quantity": 1}],
        "card_token": "tok_ok",
        "ship_to": address(1, SERVED_ZONES[0]),
        "coordination": coordination,
    }
    return Drawn(key, Twist.UNKNOWN_ITEM, body)


def address(number: int, zone: str) -> dict[str, str]:
    return {
        "name": "A. Customer",
        "street": f"Harbour Street {number}",
        "city": "Dockside",
        "postcode": f"{number:05d}",
        "zone": zone,
    }


def nurand(random: Random, a: int, c: int, low: int, high: int) -> int:
    """A non-uniform choice from low..high: some values are much more popular than others (§2.1.6)."""
    return ((random.randint(0, a) | random.randint(low, high)) + c) % (high - low + 1) + low


class Draw:
    """An endless, reproducible stream of orders; `shares` says how often each twist comes."""

    def __init__(
        self, seed: int, shares: Mapping[Twist, float], lines: Lines, run: str, coordination: str = "orchestrated"
    ) -> None:
        self._random = Random(seed)
        self._item_c = self._random.randint(0, ITEM_A)
        self._customer_c = self._random.randint(0, CUSTOMER_A)
        self._shares = dict(shares)
        self._lines = lines
        self._run = run
        self._coordination = coordination
        self._count = 0

    def __iter__(self) -> Iterator[Drawn]:
        while True:
            yield self.next()

    def next(self) -> Drawn:
        self._count += 1
        twist = self._twist()
        customer = nurand(self._random, CUSTOMER_A, self._customer_c, 1, CUSTOMERS)
        body = {
            "customer_id": f"cust-{customer:04d}",
            "lines": self._draw_lines(twist),
            "card_token": CARDS.get(twist, "tok_ok"),
            "ship_to": self._address(UNSERVED_ZONE if twist is Twist.UNSERVED_ZONE else None),
            "coordination": self._coordination,
        }
        return Drawn(f"{self._run}-{self._count}", twist, body)

    def _twist(self) -> Twist:
        at = self._random.random()
        for twist, share in self._shares.items():
            at -= share
            if at < 0:
                return twist
        return Twist.NONE

    def _draw_lines(self, twist: Twist) -> list[dict[str, Any]]:
        count = 1 if self._lines is Lines.ONE else self._random.randint(LINES_MIN, LINES_MAX)
        items: dict[str, int] = {}
        while len(items) < count:
            item = sku(nurand(self._random, ITEM_A, self._item_c, 1, PRODUCTS))
            items[item] = self._random.randint(1, QUANTITY_MAX)
        # As in §2.4.1.4 the bad item comes last, after the good ones were asked for.
        odd = {Twist.UNKNOWN_ITEM: UNKNOWN_SKU, Twist.SOLD_OUT: SOLD_OUT_SKU}.get(twist)
        if odd:
            items.popitem()
            items[odd] = 1
        return [{"sku": item, "quantity": quantity} for item, quantity in items.items()]

    def _address(self, zone: str | None) -> dict[str, str]:
        number = self._random.randint(1, 200)
        return address(number, zone or self._random.choice(SERVED_ZONES))
