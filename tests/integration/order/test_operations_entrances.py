"""Operators' entrances: the same over REST and gRPC, with the errors that every entrance has."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from proto.order.v1 import operations_pb2
from services.order.config import OrderSettings
from services.order.domain import TCC
from services.order.main import SERVICES, build
from tests.integration.edge.serving import serve_http
from tests.integration.order.bureau import Bureau
from tests.integration.order.floor import (
    AT_A_CONFIRM,
    AT_THE_ORDER,
    AT_THE_REFUND,
    SERVICE,
    Floor,
    serving_grpc,
    serving_rest,
)

SAID = {"by": "olga", "why": "the bank was down"}


@pytest_asyncio.fixture
async def floor(bureau: Bureau) -> AsyncIterator[Floor]:
    yield Floor(bureau)


@pytest_asyncio.fixture
async def rest(floor: Floor) -> AsyncIterator[httpx.AsyncClient]:
    async with serving_rest(floor) as client:
        yield client


async def do(rest: httpx.AsyncClient, path: str, key: str = "k1", **body: Any) -> httpx.Response:
    return await rest.post(f"/v1/transactions/{path}", json={**SAID, **body}, headers={"Idempotency-Key": key})


async def test_transactions_are_listed_and_shown(floor: Floor, rest: httpx.AsyncClient) -> None:
    for order_id in ("o1", "o2", "o3"):
        await floor.park(order_id, *AT_THE_REFUND)
    first = (await rest.get("/v1/transactions", params={"state": "parked", "page_size": 2})).json()
    assert [one["transaction_id"] for one in first["transactions"]] == ["o1", "o2"]
    query = {"page_size": 2, "page_token": first["next_page_token"]}
    last = (await rest.get("/v1/transactions", params=query)).json()
    assert ([one["transaction_id"] for one in last["transactions"]], last["next_page_token"]) == (["o3"], "")
    shown = (await rest.get("/v1/transactions/o1")).json()
    assert shown["transaction"] | {"age_seconds": 0, "started_at": ""} == {
        "transaction_id": "o1",
        "order_id": "o1",
        "style": "orchestrated",
        "status": "parked",
        "phase": "parked-undoing",
        "reason": "undo of charge failed 60 times",
        "waits_for": "an operator since 2026-01-31T12:00:00.000+00:00: undo of charge failed 60 times",
        "started_at": "",
        "since": "2026-01-31T12:00:00Z",
        "age_seconds": 0,
        "skippable": ["charge", "deduct-stock"],
    }
    assert shown["actions"] == []


async def test_each_verb_answers_what_was_done_and_where_the_transaction_is(
    floor: Floor, rest: httpx.AsyncClient
) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    await floor.park("o2", *AT_THE_REFUND)
    await floor.park("o3", *AT_THE_ORDER)
    await floor.bureau.place("o4", TCC)
    done = [
        (await do(rest, "o1/retry", "k1")).json(),
        (await do(rest, "o2/skip", "k2", step="deduct-stock", proof="counted")).json(),
        (await do(rest, "o3/end", "k3")).json(),
        (await do(rest, "o4/compensate", "k4")).json(),
    ]
    assert [(one["action"]["outcome"], one["transaction"]["status"]) for one in done] == [
        ("resumed", "undoing"),
        ("skipped", "undoing"),
        ("order-rejected", "ended"),
        ("withdrawn", "running"),
    ]
    page = (await rest.get("/v1/transactions/actions", params={"transaction": "o2"})).json()
    assert [(one["verb"], one["step"], one["by"], one["proof"]) for one in page["actions"]] == [
        ("skip", "deduct-stock", "olga", "counted")
    ]
    every = (await rest.get("/v1/transactions/actions", params={"page_size": 3})).json()
    assert [one["transaction_id"] for one in every["actions"]] == ["o4", "o3", "o2"]
    assert every["next_page_token"]
    # A cancellation's id has slashes.
    await floor.bureau.place("o5", TCC)
    await floor.bureau.confirm("o5")
    await floor.bureau.cancel("o5")
    assert (await rest.get("/v1/transactions/o5/cancel/3")).json()["transaction"]["style"] == "cancellation"
    assert (await do(rest, "o5/cancel/3/retry", "k5")).json()["code"] == "not-parked"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("o1/compensate", {}, 409, "already-going-back"),
        ("o1/end", {}, 409, "still-owed"),
        ("o1/skip", {"step": "place-order", "proof": "seen"}, 409, "not-skippable"),
        ("o404/retry", {}, 404, "not-found"),
        ("o1/skip", {"step": "charge"}, 422, "invalid-request"),
        ("o1/retry", {"why": ""}, 422, "invalid-request"),
        ("o1/retry", {"by": "o" * 101}, 422, "invalid-request"),
        ("o1/retry", {"by": " "}, 400, "invalid"),
        ("o1/retry", {"why": "nul\0"}, 400, "invalid"),
        ("o1/retry", {"whom": "me"}, 422, "invalid-request"),
        ("a%00b/retry", {}, 400, "invalid"),
        ("o1/delete", {}, 405, "method-not-allowed"),
    ],
)
async def test_a_refusal_is_a_problem(
    floor: Floor, rest: httpx.AsyncClient, path: str, body: dict[str, str], status: int, code: str
) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    refused = await do(rest, path, **body)
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_verb_needs_a_key_and_a_page_its_bounds(rest: httpx.AsyncClient) -> None:
    assert (await rest.post("/v1/transactions/o1/retry", json=SAID)).status_code == 400
    for query in ({"page_size": 0}, {"page_size": 201}, {"state": "lost"}, {"page_token": "?"}):
        assert (await rest.get("/v1/transactions", params=query)).status_code in {400, 422}
    assert (await rest.get("/v1/transactions/a%00b")).status_code == 400
    assert (await rest.get("/v1/transactions/o404")).status_code == 404


async def test_grpc_sees_and_does_the_same(floor: Floor, rest: httpx.AsyncClient) -> None:
    for order_id in ("o1", "o2"):
        await floor.park(order_id, *AT_THE_REFUND)
    await floor.park("o3", *AT_THE_ORDER)
    await floor.park("o4", *AT_A_CONFIRM, style=TCC)
    await floor.bureau.place("o5", TCC)
    said = {**SAID, "idempotency_key": "k1"}
    async with serving_grpc(floor) as stub:
        listed = await stub.ListTransactions(operations_pb2.ListTransactionsRequest(state="parked", page_size=3))
        assert [one.transaction_id for one in listed.transactions] == ["o1", "o2", "o3"]
        assert listed.next_page_token
        retried = await stub.RetryTransaction(operations_pb2.RetryTransactionRequest(transaction_id="o1", **said))
        assert (retried.action.outcome, retried.transaction.status) == ("resumed", "undoing")
        # The entrances share one memory of what was asked.
        again = await do(rest, "o1/retry", "k1")
        assert again.json()["action"]["action_id"] == retried.action.action_id
        said["idempotency_key"] = "k2"
        skip = operations_pb2.SkipStepRequest(transaction_id="o2", proof="counted", **said)
        assert (await stub.SkipStep(skip)).action.step == "charge"
        said["idempotency_key"] = "k3"
        end = operations_pb2.EndTransactionRequest(transaction_id="o3", proof="seen", **said)
        assert (await stub.EndTransaction(end)).action.outcome == "order-rejected"
        said["idempotency_key"] = "k4"
        refused = operations_pb2.CompensateTransactionRequest(transaction_id="o4", **said)
        with pytest.raises(grpc.aio.AioRpcError, match="cancel it instead") as error:
            await stub.CompensateTransaction(refused)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        withdraw = operations_pb2.CompensateTransactionRequest(transaction_id="o5", **said)
        assert (await stub.CompensateTransaction(withdraw)).action.outcome == "withdrawn"
        shown = await stub.GetTransaction(operations_pb2.GetTransactionRequest(transaction_id="o4"))
        assert shown.transaction.skippable == ["confirm-payment"]
        assert [one.outcome for one in shown.actions] == ["refused: order-confirmed"]
        actions = await stub.ListOperatorActions(operations_pb2.ListOperatorActionsRequest(page_size=2))
        assert [one.transaction_id for one in actions.actions] == ["o5", "o4"]
        for bad in (
            operations_pb2.RetryTransactionRequest(transaction_id="o1", **SAID),
            operations_pb2.RetryTransactionRequest(transaction_id="o1", idempotency_key="k9", by="olga"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.RetryTransaction(bad)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_process_serves_operators_at_both_entrances(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    nobody = "127.0.0.1:9"
    settings = OrderSettings(
        database_url=floor.bureau.url,
        http_port=1,
        inventory_address=nobody,
        payment_address=nobody,
        shipping_address=nobody,
    )
    async with build(settings) as entrances, serve_http(entrances.app) as client:
        assert (await client.get("/v1/transactions/o1")).json()["transaction"]["status"] == "parked"
        assert (await do(client, "o1/skip", proof="seen")).json()["action"]["outcome"] == "skipped"
        assert (await client.get("/v1/orders/o1")).json()["order_id"] == "o1"
    assert SERVICE in SERVICES
