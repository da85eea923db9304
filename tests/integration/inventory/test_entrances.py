"""The service over REST and gRPC: the same operations, the same answers, the same refusals."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from libs.kernel.errors import DockyardError, Invalid, Mismatch, NotFound, Refused
from libs.runtime.grpc_edge import call
from proto.inventory.v1 import inventory_pb2
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from tests.conftest import MakeDatabase
from tests.integration.inventory.serving import Served, serve_inventory
from tests.integration.inventory.storeroom import MIGRATIONS

DO, UNDO = participant_pb2.OPERATION_DO, participant_pb2.OPERATION_UNDO


@pytest_asyncio.fixture
async def inventory(make_database: MakeDatabase) -> AsyncIterator[Served]:
    async with serve_inventory(await make_database("inventory", MIGRATIONS)) as served:
        made = await post(served, "/v1/products", catalogue(lamp=10, rope=1), key="catalogue")
        assert made.status_code == 201
        yield served


# REST.


async def post(inventory: Served, path: str, body: Any = None, key: str = "k") -> httpx.Response:
    return await inventory.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


def product(sku: str, on_hand: int = 0, minor_units: int = 4900, name: str = "") -> dict[str, Any]:
    price = {"minor_units": minor_units, "currency": "EUR"}
    return {"sku": sku, "name": name or sku.title(), "price": price, "on_hand": on_hand}


def catalogue(**stock: int) -> dict[str, Any]:
    return {"products": [product(sku, on_hand) for sku, on_hand in stock.items()]}


def lines(**wanted: int) -> dict[str, Any]:
    return {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in wanted.items()]}


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


async def stock(inventory: Served, sku: str) -> tuple[int, int, int]:
    """On hand, sold, received."""
    found = (await inventory.http.get(f"/v1/products/{sku}")).json()
    return found["on_hand"], found["sold"], found["received"]


async def test_a_product_can_be_read_as_it_was_created(inventory: Served) -> None:
    made = (await post(inventory, "/v1/products", catalogue(anvil=3))).json()["products"]
    assert made == [(await inventory.http.get("/v1/products/anvil")).json()]
    assert made == [
        product("anvil", 3) | {"reserved": 0, "sold": 0, "received": 3, "revision": 1},
    ]


async def test_creating_what_exists_changes_its_price_and_never_its_stock(inventory: Served) -> None:
    (lamp,) = (await post(inventory, "/v1/products", {"products": [product("lamp", 99, 5200, "Lamp 2")]})).json()[
        "products"
    ]
    assert (lamp["name"], lamp["price"]["minor_units"], lamp["revision"]) == ("Lamp 2", 5200, 2)
    assert await stock(inventory, "lamp") == (10, 0, 10)


async def test_products_are_listed_by_sku_page_by_page(inventory: Served) -> None:
    skus, token = [], ""
    while True:
        page = (await inventory.http.get("/v1/products", params={"page_size": 1, "page_token": token})).json()
        skus.append([one["sku"] for one in page["products"]])
        if not (token := page["next_page_token"]):
            break
    assert skus == [["lamp"], ["rope"]]


async def test_a_delivery_is_received_once(inventory: Served) -> None:
    for _ in range(2):
        received = await post(inventory, "/v1/products/lamp/receipts", {"quantity": 5})
        assert (received.status_code, received.json()["on_hand"]) == (201, 15)
    assert await stock(inventory, "lamp") == (15, 0, 15)


async def test_a_deduction_over_rest_is_made_once_and_put_back_once(inventory: Served) -> None:
    for _ in range(2):
        taken = await post(inventory, "/v1/deductions", lines(lamp=2))
        assert (taken.status_code, taken.json()) == (201, {"transaction_id": "key:k", **lines(lamp=2)})
    assert await stock(inventory, "lamp") == (8, 2, 10)
    for key in ("r1", "r1", "r2"):
        back = await post(inventory, "/v1/deductions/key:k/restock", key=key)
        assert back.json() == {"transaction_id": "key:k", **lines(lamp=2)}
    assert await stock(inventory, "lamp") == (10, 0, 10)


async def test_a_refusal_says_what_is_missing_and_stays(inventory: Served) -> None:
    refused = await post(inventory, "/v1/deductions", lines(lamp=1, rope=2))
    assert problem(refused) == (409, "out-of-stock")
    assert refused.json()["details"] == {"sku": "rope", "wanted": "2", "on_hand": "1"}
    await post(inventory, "/v1/products/rope/receipts", {"quantity": 5}, key="delivery")
    assert problem(await post(inventory, "/v1/deductions", lines(lamp=1, rope=2))) == (409, "out-of-stock")
    assert await stock(inventory, "lamp") == (10, 0, 10)


async def test_a_key_stands_for_one_request(inventory: Served) -> None:
    requests: tuple[tuple[str, Any, Any], ...] = (
        ("/v1/products", catalogue(anvil=1), catalogue(anvil=2)),
        ("/v1/products/lamp/receipts", {"quantity": 1}, {"quantity": 2}),
        ("/v1/deductions", lines(lamp=1), lines(lamp=2)),
        ("/v1/deductions", lines(lamp=1) | {"transaction_id": "t1"}, lines(lamp=1) | {"transaction_id": "t2"}),
    )
    for number, (path, first, other) in enumerate(requests):
        key = f"k{number}"
        assert (await post(inventory, path, first, key)).status_code == 201, path
        assert problem(await post(inventory, path, other, key)) == (422, "idempotency-key-reused"), path
    await post(inventory, "/v1/deductions/t1/restock", key="back")
    other = await post(inventory, "/v1/deductions/t2/restock", key="back")
    assert problem(other) == (422, "idempotency-key-reused")
    assert await stock(inventory, "lamp") == (10, 1, 11)


async def test_a_transaction_stands_for_one_deduction_whatever_the_key(inventory: Served) -> None:
    for key in ("k1", "k2"):
        taken = await post(inventory, "/v1/deductions", lines(lamp=1) | {"transaction_id": "t1"}, key)
        assert taken.status_code == 201
    assert await stock(inventory, "lamp") == (9, 1, 10)


async def test_every_post_needs_a_key(inventory: Served) -> None:
    for path in ("/v1/products", "/v1/products/lamp/receipts", "/v1/deductions", "/v1/deductions/t1/restock"):
        assert problem(await post(inventory, path, {}, key="")) == (400, "idempotency-key-missing")


NONSENSE: tuple[tuple[str, Any], ...] = (
    ("/v1/products", {"products": []}),
    ("/v1/products", {"products": [product("a\0b")]}),
    ("/v1/products", {"products": [product("anvil", name="An\0vil")]}),
    ("/v1/products", {"products": [product("anvil", minor_units=0)]}),
    ("/v1/products", {"products": [product("anvil", on_hand=-1)]}),
    ("/v1/products", {"products": [product(f"s{number}") for number in range(1001)]}),
    ("/v1/products/lamp/receipts", {"quantity": 0}),
    ("/v1/products/lamp/receipts", {"quantity": 10**12}),
    ("/v1/products/a%00b/receipts", {"quantity": 1}),
    ("/v1/deductions", lines()),
    ("/v1/deductions", lines(lamp=0)),
    ("/v1/deductions", lines(lamp=10_001)),
    ("/v1/deductions", lines(lamp=1) | {"transaction_id": "a b"}),
    ("/v1/deductions", lines(lamp=1) | {"tip": 1}),
    ("/v1/deductions", {"lines": lines(lamp=1)["lines"] * 2}),
    ("/v1/deductions", lines(**{f"s{number}": 1 for number in range(101)})),
    ("/v1/deductions/a%00b/restock", None),
)


async def test_what_makes_no_sense_is_refused_before_it_reaches_a_batch(inventory: Served) -> None:
    for number, (path, body) in enumerate(NONSENSE):
        answer = await post(inventory, path, body, key=f"k{number}")
        assert answer.status_code in {400, 422}, (path, body)
    for path in ("/v1/products/a%00b", "/v1/products?page_size=0", "/v1/products?page_token=!", PAGE_OF_NUL):
        assert (await inventory.http.get(path)).status_code in {400, 422}, path


PAGE_OF_NUL = "/v1/products?page_token=AA"


async def test_nobody_has_nothing(inventory: Served) -> None:
    assert problem(await inventory.http.get("/v1/products/unicorn")) == (404, "not-found")
    missing = await post(inventory, "/v1/products/unicorn/receipts", {"quantity": 1})
    assert problem(missing) == (404, "not-found")


# gRPC, as people use it.


def line(sku: str, quantity: int) -> kernel_pb2.Line:
    return kernel_pb2.Line(sku=sku, quantity=quantity)


async def test_the_same_over_grpc(inventory: Served) -> None:
    stub = inventory.stub
    price = kernel_pb2.Money(minor_units=700, currency="EUR")
    wanted = [
        inventory_pb2.NewProduct(sku=sku, name=sku.title(), price=price, on_hand=on_hand)
        for sku, on_hand in (("bolt", 5), ("anvil", 3))
    ]
    create = inventory_pb2.CreateProductsRequest(idempotency_key="k", products=wanted)
    made = (await call(stub.CreateProducts, create, 5)).products
    assert [(one.sku, one.on_hand, one.price) for one in made] == [("bolt", 5, price), ("anvil", 3, price)]
    receive = inventory_pb2.ReceiveStockRequest(idempotency_key="k", sku="bolt", quantity=2)
    assert (await call(stub.ReceiveStock, receive, 5)).product.on_hand == 7
    deduct = inventory_pb2.DeductStockRequest(transaction_id="t1", lines=[line("bolt", 4)])
    for _ in range(2):
        assert list((await call(stub.DeductStock, deduct, 5)).deducted.lines) == [line("bolt", 4)]
    assert await stock(inventory, "bolt") == (3, 4, 7)
    restock = inventory_pb2.RestockRequest(transaction_id="t1")
    assert list((await call(stub.Restock, restock, 5)).restocked.lines) == [line("bolt", 4)]
    bolt = (await call(stub.GetProduct, inventory_pb2.GetProductRequest(sku="bolt"), 5)).product
    assert (bolt.on_hand, bolt.sold, bolt.received) == (7, 0, 7)
    first = await call(stub.ListProducts, inventory_pb2.ListProductsRequest(page_size=3), 5)
    rest = inventory_pb2.ListProductsRequest(page_size=3, page_token=first.next_page_token)
    second = await call(stub.ListProducts, rest, 5)
    assert [[one.sku for one in page.products] for page in (first, second)] == [["anvil", "bolt", "lamp"], ["rope"]]


def deduct_request(transaction_id: str = "t1", sku: str = "lamp", quantity: int = 1) -> Any:
    return inventory_pb2.DeductStockRequest(transaction_id=transaction_id, lines=[line(sku, quantity)])


WRONG: tuple[tuple[str, Any, type[DockyardError]], ...] = (
    ("DeductStock", inventory_pb2.DeductStockRequest(), Invalid),
    ("DeductStock", deduct_request("a\0b"), Invalid),
    ("DeductStock", deduct_request("x" * 261), Invalid),
    ("DeductStock", deduct_request(sku="a\0b"), Invalid),
    ("DeductStock", deduct_request(sku="x" * 65), Invalid),
    ("DeductStock", deduct_request(quantity=-1), Invalid),
    ("DeductStock", deduct_request("taken", quantity=2), Mismatch),
    ("DeductStock", deduct_request(quantity=11), Refused),
    ("Restock", inventory_pb2.RestockRequest(), Invalid),
    ("GetProduct", inventory_pb2.GetProductRequest(sku="\0"), Invalid),
    ("GetProduct", inventory_pb2.GetProductRequest(sku="unicorn"), NotFound),
    ("ListProducts", inventory_pb2.ListProductsRequest(page_size=-1), Invalid),
    ("ListProducts", inventory_pb2.ListProductsRequest(page_token="AA"), Invalid),
    ("CreateProducts", inventory_pb2.CreateProductsRequest(idempotency_key="k"), Invalid),
    ("CreateProducts", inventory_pb2.CreateProductsRequest(products=[inventory_pb2.NewProduct(sku="a")]), Invalid),
    ("ReceiveStock", inventory_pb2.ReceiveStockRequest(sku="lamp", quantity=1), Invalid),
    ("ReceiveStock", inventory_pb2.ReceiveStockRequest(idempotency_key="k", sku="unicorn", quantity=1), NotFound),
)


async def test_what_is_wrong_is_said_in_the_same_words_over_grpc(inventory: Served) -> None:
    await call(inventory.stub.DeductStock, deduct_request("taken"), 5)
    for method, message, error in WRONG:
        with pytest.raises(error):
            await call(getattr(inventory.stub, method), message, 5)


# gRPC, as coordinators use it.


def command(
    transaction_id: str, operation: participant_pb2.Operation.ValueType = DO, sku: str = "lamp", **context: Any
) -> inventory_pb2.Command:
    about: dict[str, Any] = {"transaction_id": transaction_id, "step": "deduct-stock", "operation": operation} | context
    said = participant_pb2.CommandContext(**about)
    if operation == UNDO:
        return inventory_pb2.Command(context=said, restock=inventory_pb2.RestockDeducted())
    return inventory_pb2.Command(context=said, deduct_stock=inventory_pb2.DeductStock(lines=[line(sku, 1)]))


async def batch(inventory: Served, *commands: inventory_pb2.Command) -> list[str]:
    """Each result in a word."""
    request = inventory_pb2.ExecuteBatchRequest(commands=commands)
    return [_word(result) for result in (await call(inventory.stub.ExecuteBatch, request, 10)).results]


def _word(result: inventory_pb2.Result) -> str:
    match result.WhichOneof("result"):
        case "refused":
            return result.refused.code
        case "fault":
            return f"fault {result.fault.code}"
        case "restocked" if not result.restocked.lines:
            return "nothing restocked"
        case kind:
            assert kind is not None
            return kind


async def test_results_come_in_the_order_of_their_commands(inventory: Served) -> None:
    first = [command("t1"), command("t2", sku="unicorn"), command("t3", sku="rope"), command("t4", sku="rope")]
    assert await batch(inventory, *first) == ["stock_deducted", "unknown-product", "stock_deducted", "out-of-stock"]
    undo = [command(f"t{number}", UNDO) for number in range(1, 6)]
    assert await batch(inventory, *undo) == [
        "restocked",
        "nothing restocked",
        "restocked",
        "nothing restocked",
        "nothing restocked",
    ]
    assert await batch(inventory, command("t5")) == ["undone-before-done"]
    assert (await stock(inventory, "lamp"), await stock(inventory, "rope")) == ((10, 0, 10), (1, 0, 1))


async def test_a_do_its_repeat_and_its_undo_in_one_batch_happen_one_after_the_other(inventory: Served) -> None:
    told = await batch(inventory, command("t1"), command("t1"), command("t1", UNDO), command("t1", UNDO))
    assert told == ["stock_deducted", "stock_deducted", "restocked", "restocked"]
    assert await stock(inventory, "lamp") == (10, 0, 10)


async def test_batches_of_two_coordinators_take_each_thing_once(inventory: Served) -> None:
    commands = [command(f"t{number}") for number in range(20)]
    told = await asyncio.gather(batch(inventory, *commands), batch(inventory, *reversed(commands)))
    assert told[0] == list(reversed(told[1]))
    assert sorted(told[0]) == ["out-of-stock"] * 10 + ["stock_deducted"] * 10
    assert await stock(inventory, "lamp") == (0, 10, 10)


async def test_a_command_that_makes_no_sense_is_its_own_problem(inventory: Served) -> None:
    mixed = command("t1", UNDO)
    mixed.deduct_stock.lines.append(line("lamp", 1))
    nonsense = [
        mixed,
        inventory_pb2.Command(),
        command("a\0b"),
        command("t2", step="take-stock"),
        command("t3", sku="a\0b"),
        command("t4", sku="x" * 65),
    ]
    assert await batch(inventory, *nonsense, command("t5")) == ["invalid"] * 6 + ["stock_deducted"]


async def test_a_batch_has_a_limit(inventory: Served) -> None:
    with pytest.raises(Invalid):
        await batch(inventory, *(command(f"t{number}") for number in range(501)))
