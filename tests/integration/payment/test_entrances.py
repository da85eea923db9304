"""The service over REST and gRPC, with the real processor behind it."""

import asyncio
from typing import Any

import httpx
import pytest

from libs.kernel.errors import DockyardError, Invalid, NotFound, Refused
from libs.runtime.grpc_edge import call
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2
from services.payment.domain import payment_id_of
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import closed_port
from tests.integration.payment.serving import SLOW_SECONDS, Served, serve_payment
from tests.integration.payment.till import MIGRATIONS

DO, UNDO, CONFIRM = (
    participant_pb2.OPERATION_DO,
    participant_pb2.OPERATION_UNDO,
    participant_pb2.OPERATION_CONFIRM,
)


# REST.


async def post(payment: Served, path: str, body: Any = None, key: str = "k") -> httpx.Response:
    return await payment.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


def order(card: str = "tok_ok", amount: int = 4900, **more: str) -> dict[str, Any]:
    return {
        "account_id": "ada",
        "amount": {"minor_units": amount, "currency": "EUR"},
        "card_token": card,
        **more,
    }


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


async def charged_at(psp: httpx.AsyncClient) -> list[int]:
    """What the processor took and kept of each charge."""
    charges = (await psp.get("/v1/charges")).json()["charges"]
    return [one["amount_minor"] - one["refunded_minor"] for one in charges if one["status"] == "captured"]


async def test_a_charge_over_rest_is_made_once_and_can_be_read(payment: Served, psp: httpx.AsyncClient) -> None:
    made, again = await post(payment, "/v1/payments", order()), await post(payment, "/v1/payments", order())
    assert made.status_code == again.status_code == 201
    body = made.json()
    assert body == again.json() == (await payment.http.get(f"/v1/payments/{body['payment_id']}")).json()
    assert (body["status"], body["transaction_id"]) == ("charged", "key:k")
    assert "card_token" not in body
    assert await charged_at(psp) == [4900]


async def test_a_refund_over_rest_shows_on_the_statement(payment: Served, psp: httpx.AsyncClient) -> None:
    made = (await post(payment, "/v1/payments", order(transaction_id="t1"))).json()
    for key in ("r1", "r2"):
        back = await post(payment, "/v1/transactions/t1/refund", key=key)
        assert back.json() == {
            "transaction_id": "t1",
            "payment_id": made["payment_id"],
            "amount": {"minor_units": 4900, "currency": "EUR"},
        }
    postings = (await payment.http.get("/v1/accounts/ada/postings")).json()["postings"]
    assert [(one["memo"], one["amount"]["minor_units"]) for one in postings] == [("refund", -4900), ("charge", 4900)]
    account = (await payment.http.get("/v1/accounts/ada")).json()
    assert account == {"account_id": "ada", "name": "ada", "charged": {"minor_units": 0, "currency": "EUR"}}
    assert await charged_at(psp) == [0]


async def test_a_charge_named_after_its_key_is_refunded_under_that_name(payment: Served) -> None:
    made = await post(payment, "/v1/payments", order(), key="8e03978e-40d5")
    back = await post(payment, "/v1/transactions/key:8e03978e-40d5/refund", key="r")
    assert back.json()["payment_id"] == made.json()["payment_id"]


@pytest.mark.parametrize(
    ("card", "code"),
    [("tok_declined", "card-declined"), ("tok_insufficient", "insufficient-funds"), ("tok_nope", "unknown-card")],
)
async def test_a_card_that_is_refused_is_refused_again(payment: Served, card: str, code: str) -> None:
    for _ in range(2):
        assert problem(await post(payment, "/v1/payments", order(card))) == (409, code)
    declined = await payment.http.get(f"/v1/payments/{payment_id_of('key:k', 'charge')}")
    assert (declined.json()["status"], declined.json()["decline_code"]) == ("declined", code)
    refund = await post(payment, "/v1/transactions/key:k/refund", key="r")
    assert refund.json() == {"transaction_id": "key:k", "payment_id": "", "amount": None}


@pytest.mark.parametrize("card", ["tok_slow", "tok_flaky", "tok_lost_response", "tok_rate_limited"])
async def test_a_card_that_misbehaves_is_charged_once(payment: Served, psp: httpx.AsyncClient, card: str) -> None:
    assert (await post(payment, "/v1/payments", order(card))).status_code == 201
    assert await charged_at(psp) == [4900]


async def test_a_key_stands_for_one_request(payment: Served) -> None:
    await post(payment, "/v1/payments", order())
    assert problem(await post(payment, "/v1/payments", order(amount=1))) == (422, "idempotency-key-reused")
    await post(payment, "/v1/accounts", {"account_id": "bob", "name": "Bob"})
    other = await post(payment, "/v1/accounts", {"account_id": "bob", "name": "Mallory"})
    assert problem(other) == (422, "idempotency-key-reused")
    assert (await payment.http.get("/v1/accounts/bob")).json()["name"] == "Bob"


async def test_every_post_needs_a_key(payment: Served) -> None:
    for path in ("/v1/payments", "/v1/accounts", "/v1/transactions/t1/refund"):
        assert problem(await post(payment, path, {}, key="")) == (400, "idempotency-key-missing")


NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    order(amount=0),
    order(amount=10**12 + 1),
    order(card=""),
    order(card="a\0b"),
    order(card="x" * 65),
    order(transaction_id="a b"),
    order(tip="1"),
    order() | {"account_id": "ada\0"},
    order() | {"amount": {"minor_units": 1, "currency": "eur"}},
)


async def test_a_charge_that_makes_no_sense_is_refused(payment: Served) -> None:
    for body in NONSENSE:
        assert problem(await post(payment, "/v1/payments", body)) == (422, "invalid-request"), body


ODD_PATHS = (
    "/v1/accounts/a%00b",
    "/v1/accounts/ada/postings?page_size=0",
    "/v1/accounts/ada/postings?page_size=201",
    "/v1/accounts/ada/postings?page_token=!",
    "/v1/accounts/ada/postings?page_token=AA",
    "/v1/payments/%00",
    f"/v1/payments/{'x' * 65}",
)


async def test_a_question_that_makes_no_sense_is_refused(payment: Served) -> None:
    await post(payment, "/v1/payments", order())
    for path in ODD_PATHS:
        assert (await payment.http.get(path)).status_code in {400, 422}, path


async def test_names_are_for_reading(payment: Served) -> None:
    named = await post(payment, "/v1/accounts", {"account_id": "ada", "name": "Ada\0"})
    assert problem(named) == (400, "invalid")


async def test_nobody_has_nothing(payment: Served) -> None:
    for path in ("/v1/accounts/nobody", "/v1/accounts/nobody/postings", "/v1/payments/pay_none"):
        assert problem(await payment.http.get(path)) == (404, "not-found")


async def test_a_refund_of_what_never_was_keeps_it_from_being(payment: Served) -> None:
    assert (await post(payment, "/v1/transactions/t1/refund")).json()["payment_id"] == ""
    assert problem(await post(payment, "/v1/payments", order(transaction_id="t1"))) == (409, "undone-before-done")


# gRPC, as people use it.

EUR_49 = kernel_pb2.Money(minor_units=4900, currency="EUR")


def charge_request(transaction_id: str = "t1", card: str = "tok_ok") -> payment_pb2.ChargeRequest:
    return payment_pb2.ChargeRequest(transaction_id=transaction_id, account_id="ada", amount=EUR_49, card_token=card)


async def test_the_same_over_grpc(payment: Served) -> None:
    stub = payment.stub
    account = await call(
        stub.OpenAccount,
        payment_pb2.OpenAccountRequest(idempotency_key="k", account_id="ada", name="Ada Lovelace"),
        5,
    )
    assert account.account.name == "Ada Lovelace"
    charged = (await call(stub.Charge, charge_request(), 5)).charged
    assert (await call(stub.Charge, charge_request(), 5)).charged == charged
    one = (await call(stub.GetPayment, payment_pb2.GetPaymentRequest(payment_id=charged.payment_id), 5)).payment
    assert (one.status, one.amount) == (payment_pb2.PAYMENT_STATUS_CHARGED, EUR_49)
    refunded = (await call(stub.Refund, payment_pb2.RefundRequest(transaction_id="t1"), 5)).refunded
    assert (refunded.payment_id, refunded.amount) == (charged.payment_id, EUR_49)
    pages = []
    token = ""
    while True:
        page = await call(
            stub.ListPostings, payment_pb2.ListPostingsRequest(account_id="ada", page_size=1, page_token=token), 5
        )
        pages.append([(posting.memo, posting.amount.minor_units) for posting in page.postings])
        if not (token := page.next_page_token):
            break
    assert pages == [[("refund", -4900)], [("charge", 4900)]]
    balance = (await call(stub.GetAccount, payment_pb2.GetAccountRequest(account_id="ada"), 5)).account
    assert balance.charged == kernel_pb2.Money(minor_units=0, currency="EUR")


WRONG: tuple[tuple[str, Any, type[DockyardError]], ...] = (
    ("Charge", payment_pb2.ChargeRequest(), Invalid),
    ("Charge", charge_request("a\0b"), Invalid),
    ("Charge", charge_request(card="x" * 65), Invalid),
    ("Charge", charge_request(card="tok_declined"), Refused),
    ("Refund", payment_pb2.RefundRequest(), Invalid),
    ("GetPayment", payment_pb2.GetPaymentRequest(payment_id="\0"), Invalid),
    ("GetPayment", payment_pb2.GetPaymentRequest(payment_id="none"), NotFound),
    ("GetAccount", payment_pb2.GetAccountRequest(account_id="none"), NotFound),
    ("ListPostings", payment_pb2.ListPostingsRequest(account_id="none"), NotFound),
    ("ListPostings", payment_pb2.ListPostingsRequest(account_id="ada", page_size=-1), Invalid),
    ("OpenAccount", payment_pb2.OpenAccountRequest(account_id="ada", name="Ada"), Invalid),
    ("OpenAccount", payment_pb2.OpenAccountRequest(idempotency_key="k", account_id="ada"), Invalid),
)


async def test_what_is_wrong_is_said_in_the_same_words_over_grpc(payment: Served) -> None:
    for method, message, error in WRONG:
        with pytest.raises(error):
            await call(getattr(payment.stub, method), message, 5)


# gRPC, as coordinators use it.


def command(
    transaction_id: str,
    operation: participant_pb2.Operation.ValueType = DO,
    card: str = "tok_ok",
    **context: Any,
) -> payment_pb2.Command:
    about: dict[str, Any] = {"transaction_id": transaction_id, "step": "charge", "operation": operation} | context
    said = participant_pb2.CommandContext(**about)
    if operation == UNDO:
        return payment_pb2.Command(context=said, refund=payment_pb2.RefundCharge())
    if operation == CONFIRM:
        return payment_pb2.Command(context=said, capture=payment_pb2.CaptureCharge())
    charge = payment_pb2.ChargeCard(account_id="ada", amount=EUR_49, card_token=card)
    return payment_pb2.Command(context=said, charge=charge)


async def batch(payment: Served, *commands: payment_pb2.Command) -> list[str]:
    """Each result in a word."""
    request = payment_pb2.ExecuteBatchRequest(commands=commands)
    return [_word(result) for result in (await call(payment.stub.ExecuteBatch, request, 10)).results]


def _word(result: payment_pb2.Result) -> str:
    kind = result.WhichOneof("result")
    assert kind is not None
    match kind:
        case "refused":
            return result.refused.code
        case "fault":
            return (
                f"{result.fault.code} {participant_pb2.FaultKind.Name(result.fault.kind).removeprefix('FAULT_KIND_')}"
            )
        case "refunded" | "captured" if not getattr(result, kind).payment_id:
            return f"nothing {kind}"
        case _:
            return kind


async def until_answered(payment: Served, one: payment_pb2.Command) -> str:
    while (word := (await batch(payment, one))[0]).startswith("still-running"):
        pass
    return word


async def test_a_slow_card_does_not_keep_its_neighbours(payment: Served, psp: httpx.AsyncClient) -> None:
    before = asyncio.get_running_loop().time()
    told = await batch(payment, command("t1"), command("t2", card="tok_slow"), command("t3", card="tok_declined"))
    assert told == ["charged", "still-running IN_DOUBT", "card-declined"]
    assert asyncio.get_running_loop().time() - before < SLOW_SECONDS
    assert await until_answered(payment, command("t2", card="tok_slow")) == "charged"
    assert await charged_at(psp) == [4900, 4900]


async def test_a_fault_says_when_to_ask_again(payment: Served) -> None:
    request = payment_pb2.ExecuteBatchRequest(commands=[command("t1", card="tok_slow")])
    fault = (await call(payment.stub.ExecuteBatch, request, 5)).results[0].fault
    assert fault.retry_after_ms == 250
    await until_answered(payment, command("t1", card="tok_slow"))


async def test_a_refund_sent_while_the_charge_is_still_running_wins_in_the_end(
    payment: Served, psp: httpx.AsyncClient
) -> None:
    assert await batch(payment, command("t1", card="tok_slow")) == ["still-running IN_DOUBT"]
    assert await until_answered(payment, command("t1", UNDO)) == "refunded"
    assert await charged_at(psp) == [0]
    assert await batch(payment, command("t1", card="tok_slow"), command("t1", UNDO)) == ["charged", "refunded"]


async def test_results_come_in_the_order_of_their_commands(payment: Served) -> None:
    cards = ["tok_ok", "tok_declined", "tok_insufficient", "tok_nope"] * 10
    commands = [command(f"t{number}", card=card) for number, card in enumerate(cards)]
    words = await batch(payment, *commands)
    while any(word.startswith("still-running") for word in words):  # a busy machine is slow as well
        words = await batch(payment, *commands)
    assert words == ["charged", "card-declined", "insufficient-funds", "unknown-card"] * 10


async def test_a_command_that_makes_no_sense_is_its_own_problem(payment: Served) -> None:
    both = payment_pb2.Command(
        context=participant_pb2.CommandContext(transaction_id="t1", step="charge", operation=UNDO),
        charge=payment_pb2.ChargeCard(account_id="ada", amount=EUR_49, card_token="tok_ok"),
    )
    words = await batch(
        payment,
        both,
        payment_pb2.Command(),
        command("a\0b"),
        command("t2", step="a\0b"),
        command("t3", UNDO),
        command("t4"),
    )
    assert words == ["invalid"] * 4 + ["nothing refunded", "charged"]


async def test_a_command_whose_time_has_passed_is_not_begun(payment: Served, psp: httpx.AsyncClient) -> None:
    assert await batch(payment, command("t1", deadline_unix_ms=1)) == ["deadline-passed UNAVAILABLE"]
    assert await charged_at(psp) == []
    # An undo does not become unnecessary by being late.
    assert await batch(payment, command("t1", UNDO, deadline_unix_ms=1)) == ["nothing refunded"]


async def test_while_the_processor_is_gone_everything_stays_in_doubt(make_database: MakeDatabase) -> None:
    database = await make_database("payment", MIGRATIONS)
    with closed_port() as port:
        async with serve_payment(database, f"http://127.0.0.1:{port}") as payment:
            assert (await batch(payment, command("t1")))[0].endswith(" IN_DOUBT")
            assert (await batch(payment, command("t1", UNDO)))[0].endswith(" IN_DOUBT")
            assert problem(await post(payment, "/v1/payments", order())) == (504, "processor-unreachable")
