"""What a customer sees over REST: keys, waits, errors, history, pages, cancellation, shipping."""

from collections.abc import Mapping

import httpx
import pytest

from dockyard.local.waiting import wait_until
from libs.runtime.clock import SystemClock
from tests.e2e.shop import ANTARCTICA, Shop, fresh_key

PROBLEM = "application/problem+json"
SEEN_SECONDS = 20.0


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"] and problem["detail"] and problem["instance"]


def on_hand(shop: Shop, sku: str) -> int:
    return int(shop.get("inventory", f"/v1/products/{sku}").json()["on_hand"])


def test_an_order_is_accepted_at_once_and_found_under_its_location(shop: Shop) -> None:
    accepted = shop.place(wait=0)
    assert (accepted.status_code, accepted.json()["status"]) == (202, "pending")
    order = shop.eventually(accepted.json()["order_id"], "confirmed")
    assert accepted.headers["location"] == f"/v1/orders/{order['order_id']}"
    assert order["total"] == {"minor_units": 9800, "currency": "EUR"}


def test_who_prefers_to_wait_gets_the_end(shop: Shop) -> None:
    confirmed = shop.place(wait=20)
    assert (confirmed.status_code, confirmed.json()["status"]) == (201, "confirmed")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"card": "tok_declined"}, "card-declined"),
        ({"card": "tok_insufficient"}, "insufficient-funds"),
        ({"ship_to": ANTARCTICA}, "zone-not-served"),
        ({"lines": {"lamp": 1, "unicorn": 1}}, "unknown-product"),
    ],
)
def test_a_refused_order_says_why_and_keeps_no_stock(shop: Shop, wish: Mapping[str, object], reason: str) -> None:
    before = on_hand(shop, "lamp")
    rejected = shop.place(**wish).json()  # type: ignore[arg-type]
    assert (rejected["status"], rejected["reason"]) == ("rejected", reason)
    assert on_hand(shop, "lamp") == before


@pytest.mark.parametrize("card", ["tok_flaky", "tok_lost_response", "tok_slow", "tok_rate_limited"])
def test_a_difficult_processor_is_outlasted_and_charges_once(shop: Shop, card: str) -> None:
    customer = fresh_key("patient")
    order = shop.place(card=card, customer=customer).json()
    assert order["status"] == "confirmed"
    postings = shop.get("payment", f"/v1/accounts/{customer}/postings").json()["postings"]
    assert [posting["amount"]["minor_units"] for posting in postings] == [9800]


def test_the_same_key_answers_the_same_order(shop: Shop) -> None:
    key = fresh_key()
    first, second = shop.place(key=key), shop.place(key=key)
    assert first.json()["order_id"] == second.json()["order_id"]
    assert second.status_code == first.status_code == 201


def test_the_same_key_for_another_order_is_refused(shop: Shop) -> None:
    key = fresh_key()
    shop.place(key=key)
    assert_problem(shop.place(key=key, lines={"rope": 1}), 422, "idempotency-key-reused")


def test_a_second_request_while_the_first_is_worked_on_is_told_to_wait(shop: Shop) -> None:
    with httpx.Client(trust_env=False) as client:
        headers = {"Idempotency-Key": fresh_key()}
        url, body = shop.url("order", "/v1/orders"), shop.body()
        answers = [client.post(url, json=body, headers=headers).status_code for _ in range(3)]
    assert set(answers) <= {202, 409}


def test_an_order_without_a_key_is_refused(shop: Shop) -> None:
    response = shop.client.post(shop.url("order", "/v1/orders"), json=shop.body())
    assert_problem(response, 400, "idempotency-key-missing")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing-here", None, 404, "no-such-path"),
        ("GET", "/v1/orders/ord_0", None, 404, "not-found"),
        ("DELETE", "/v1/orders", None, 405, "method-not-allowed"),
        ("POST", "/v1/orders", {"customer_id": "ada"}, 422, "invalid-request"),
        ("GET", "/v1/orders?page_size=100000", None, 422, "invalid-request"),
        ("GET", "/v1/orders?page_token=%25%25", None, 400, "page-token-invalid"),
    ],
)
def test_every_error_is_a_problem(shop: Shop, method: str, path: str, body: object, status: int, code: str) -> None:
    headers = {"Idempotency-Key": fresh_key()}
    assert_problem(shop.client.request(method, shop.url("order", path), json=body, headers=headers), status, code)


def test_a_reader_who_says_what_it_wrote_sees_it(shop: Shop) -> None:
    written = shop.place()
    position = written.headers["dockyard-position"]
    page = shop.get("order", "/v1/orders?page_size=5", dockyard_after=position)
    assert written.json()["order_id"] in [order["order_id"] for order in page.json()["orders"]]


def test_history_tells_every_event_and_as_of_goes_back_in_time(shop: Shop) -> None:
    order = shop.place().json()
    path = f"/v1/orders/{order['order_id']}"
    events = shop.get("order", f"{path}/history").json()["events"]
    assert [event["type"] for event in events] == ["OrderPlaced", "OrderConfirmed"]
    assert shop.get("order", f"{path}?as_of=1").json()["status"] == "pending"
    assert shop.get("order", f"{path}?as_of={events[1]['recorded_at']}").json()["status"] == "confirmed"
    assert_problem(shop.get("order", f"{path}?as_of=2000-01-01T00:00:00Z"), 404, "not-found")


def test_a_customers_orders_come_in_pages_newest_first(shop: Shop) -> None:
    customer = fresh_key("pager")
    placed = [shop.place(customer=customer).json()["order_id"] for _ in range(5)]
    shop.eventually(placed[-1], "confirmed")
    found: list[str] = []
    token = ""
    for _ in range(3):
        page = shop.get("order", f"/v1/orders?customer={customer}&page_size=2&page_token={token}").json()
        found += [order["order_id"] for order in page["orders"]]
        token = page["next_page_token"]
    assert found == placed[::-1]
    assert token == ""


def test_the_timeline_tells_what_each_service_did(shop: Shop) -> None:
    order = shop.place(ship_to=ANTARCTICA).json()
    timeline = shop.get("order", f"/v1/orders/{order['order_id']}/timeline").json()
    told = [(entry["service"], entry["what"]) for entry in timeline["entries"]]
    assert ("shipping", "book-shipment refused: zone-not-served") in told
    assert timeline["state"] == "undone"
    assert timeline["waits_for"] == ""


def test_a_confirmed_order_can_be_cancelled_and_everything_is_given_back(shop: Shop) -> None:
    customer = fresh_key("fickle")
    order = shop.place(customer=customer).json()
    response = shop.post("order", f"/v1/orders/{order['order_id']}/cancel", {"reason": "too late"}, prefer="wait=20")
    cancelled = response.json()
    assert (response.status_code, cancelled["status"], cancelled["reason"]) == (200, "cancelled", "too late")
    account = shop.get("payment", f"/v1/accounts/{customer}").json()
    assert account["charged"]["minor_units"] == 0


def test_a_parcel_leaves_once_its_order_is_confirmed_and_then_nothing_can_be_cancelled(shop: Shop) -> None:
    order = shop.place().json()
    path = f"/v1/orders/{order['order_id']}"
    shipment_id = shop.get("order", f"{path}/timeline").json()["entries"]
    shipment = next(entry["detail"] for entry in shipment_id if entry["what"] == "book-shipment done")
    shipment_id = dict(part.split("=") for part in shipment.split())["shipment_id"]

    def released() -> bool:
        return bool(shop.get("shipping", f"/v1/shipments/{shipment_id}").json()["status"] == "released")

    assert wait_until(released, SystemClock(), SEEN_SECONDS)
    assert shop.post("shipping", f"/v1/shipments/{shipment_id}/dispatch").json()["status"] == "dispatched"
    shop.eventually(order["order_id"], "shipped")
    assert_problem(shop.post("order", f"{path}/cancel"), 409, "already-shipped")
