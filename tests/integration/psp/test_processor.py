"""The card processor over HTTP: every card, and a memory that outlives the process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.psp.domain import FAILING_TRIES, Conduct, conduct
from tests.conftest import MakeDatabase
from tests.integration.psp.serving import MIGRATIONS, serve_psp


@pytest_asyncio.fixture
async def database(make_database: MakeDatabase) -> str:
    return await make_database("psp", MIGRATIONS)


@pytest_asyncio.fixture
async def psp(database: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve_psp(database) as client:
        yield client


async def charge(
    psp: httpx.AsyncClient, key: str, card: str = "tok_ok", amount: int = 4900, reference: str = "", **more: Any
) -> httpx.Response:
    body = {"amount_minor": amount, "currency": "EUR", "card_token": card, "reference": reference or key, **more}
    return await psp.post("/v1/charges", json=body, headers={"Idempotency-Key": key})


async def refund(psp: httpx.AsyncClient, charge_id: str, key: str, amount: int = 4900) -> httpx.Response:
    body = {"amount_minor": amount}
    return await psp.post(f"/v1/charges/{charge_id}/refunds", json=body, headers={"Idempotency-Key": key})


async def authorise(psp: httpx.AsyncClient, key: str, card: str = "tok_ok", amount: int = 4900) -> httpx.Response:
    return await charge(psp, key, card, amount, capture=False)


async def end(psp: httpx.AsyncClient, charge_id: str, how: str) -> httpx.Response:
    return await psp.post(f"/v1/charges/{charge_id}/{how}")


async def reverse(psp: httpx.AsyncClient, key: str, amount: int = 4900) -> httpx.Response:
    """Voids whatever is, or will be, authorised under a key."""
    body = {"key": key, "amount_minor": amount, "currency": "EUR", "reference": key}
    return await psp.post("/v1/voids", json=body)


async def charges(psp: httpx.AsyncClient, **query: str | int) -> list[dict[str, Any]]:
    return list((await psp.get("/v1/charges", params=query)).json()["charges"])


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def key_that(first: Conduct) -> str:
    """A key whose flaky card begins like this."""
    return next(key for number in range(99) if conduct("tok_flaky", key := f"pay_{number}", 0) is first)


async def test_a_repeat_gets_the_answer_of_the_first(psp: httpx.AsyncClient) -> None:
    first, again = await charge(psp, "k"), await charge(psp, "k")
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (201, first.json())
    assert await charges(psp) == [first.json()]


async def test_repeats_at_once_charge_once(psp: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(charge(psp, f"k{number % 5}") for number in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["charge_id"] for answer in answers}) == 5
    assert len(await charges(psp)) == 5


@pytest.mark.parametrize(
    ("card", "code"), [("tok_declined", "card-declined"), ("tok_insufficient", "insufficient-funds")]
)
async def test_a_declined_card_is_not_charged(psp: httpx.AsyncClient, card: str, code: str) -> None:
    assert problem(await charge(psp, "k", card)) == problem(await charge(psp, "k", card)) == (402, code)
    assert await charges(psp) == []


async def test_a_card_that_does_not_exist_is_not_charged(psp: httpx.AsyncClient) -> None:
    assert problem(await charge(psp, "k", "tok_nope")) == (422, "unknown-card")
    assert await charges(psp) == []


async def test_a_rate_limited_card_says_when_to_come_back(psp: httpx.AsyncClient) -> None:
    for _ in range(FAILING_TRIES):
        limited = await charge(psp, "k", "tok_rate_limited")
        assert problem(limited) == (429, "overloaded")
        assert limited.headers["Retry-After"] == "1"
    assert (await charge(psp, "k", "tok_rate_limited")).status_code == 201


async def test_a_flaky_card_that_fails_honestly_was_not_charged(psp: httpx.AsyncClient) -> None:
    assert problem(await charge(psp, key_that(Conduct.FAIL), "tok_flaky")) == (503, "unavailable")
    assert await charges(psp) == []


async def test_a_flaky_card_whose_connection_drops_was_not_charged(psp: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await charge(psp, key_that(Conduct.HANG_UP), "tok_flaky")
    assert await charges(psp) == []


async def test_a_lost_response_was_charged_and_the_repeat_says_so(psp: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await charge(psp, "k", "tok_lost_response")
    kept = await charges(psp, key="k")
    assert (await charge(psp, "k", "tok_lost_response")).json() == kept[0]


async def test_a_restart_forgets_nothing(database: str) -> None:
    async with serve_psp(database) as psp:
        first = (await charge(psp, "k")).json()
        await refund(psp, first["charge_id"], "r", 1000)
    async with serve_psp(database) as psp:
        kept = first | {"refunded_minor": 1000}
        assert (await charge(psp, "k")).json() == kept
        assert (await refund(psp, first["charge_id"], "r", 1000)).status_code == 201
        assert await charges(psp, reference="k") == [kept]


async def test_a_key_stands_for_one_charge(psp: httpx.AsyncClient) -> None:
    await charge(psp, "k")
    assert problem(await charge(psp, "k", amount=1)) == (422, "idempotency-key-reused")
    assert problem(await charge(psp, "k", reference="other")) == (422, "idempotency-key-reused")


async def test_money_goes_back_once_for_each_key_and_never_more_than_came(psp: httpx.AsyncClient) -> None:
    charge_id = (await charge(psp, "k")).json()["charge_id"]
    assert (await refund(psp, charge_id, "r1", 3000)).json() == (await refund(psp, charge_id, "r1", 3000)).json()
    assert problem(await refund(psp, charge_id, "r2", 2000)) == (409, "refund-too-large")
    assert (await refund(psp, charge_id, "r3", 1900)).status_code == 201
    assert (await refund(psp, charge_id, "r1", 3000)).status_code == 201
    assert (await charges(psp))[0]["refunded_minor"] == 4900


async def test_refunds_at_once_give_back_no_more_than_came(psp: httpx.AsyncClient) -> None:
    charge_id = (await charge(psp, "k")).json()["charge_id"]
    answers = await asyncio.gather(*(refund(psp, charge_id, f"r{number}", 1000) for number in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [409] * 6
    assert (await charges(psp))[0]["refunded_minor"] == 4000


async def test_a_key_stands_for_one_refund(psp: httpx.AsyncClient) -> None:
    one, other = [(await charge(psp, key)).json()["charge_id"] for key in ("k1", "k2")]
    await refund(psp, one, "r", 1000)
    assert problem(await refund(psp, other, "r", 1000)) == (422, "idempotency-key-reused")
    assert problem(await refund(psp, one, "r", 2000)) == (422, "idempotency-key-reused")
    assert [one["refunded_minor"] for one in await charges(psp)] == [1000, 0]


async def test_what_was_never_charged_cannot_be_refunded(psp: httpx.AsyncClient) -> None:
    assert problem(await refund(psp, "ch_none", "r")) == (404, "not-found")


async def test_charges_are_listed_without_gaps(psp: httpx.AsyncClient) -> None:
    made = [(await charge(psp, f"k{number}", reference=f"ref{number % 2}")).json() for number in range(5)]

    async def listed(reference: str) -> list[dict[str, Any]]:
        seen, token = [], ""
        while True:
            query: dict[str, str | int] = {"page_size": 2, "page_token": token, "reference": reference}
            page = (await psp.get("/v1/charges", params=query)).json()
            seen += page["charges"]
            token = page["next_page_token"]
            if not token:
                return seen

    assert await listed("") == made
    assert await listed("ref1") == [made[1], made[3]]


# Authorisations.


async def statuses(psp: httpx.AsyncClient) -> list[str]:
    return [str(one["status"]) for one in await charges(psp)]


async def test_what_is_authorised_is_captured_once(psp: httpx.AsyncClient) -> None:
    held = (await authorise(psp, "k")).json()
    assert (held["status"], held["capture"]) == ("authorised", False)
    assert (await authorise(psp, "k")).json() == held
    taken = await end(psp, held["charge_id"], "captures")
    assert (taken.status_code, taken.json()) == (201, held | {"status": "captured"})
    assert (await end(psp, held["charge_id"], "captures")).json() == taken.json()
    assert (await authorise(psp, "k")).json() == taken.json()
    assert await charges(psp, key="k") == [taken.json()]
    assert (await refund(psp, held["charge_id"], "r")).status_code == 201


async def test_what_is_voided_is_never_charged(psp: httpx.AsyncClient) -> None:
    held = (await authorise(psp, "k")).json()
    for _ in range(2):
        assert (await end(psp, held["charge_id"], "voids")).json() == held | {"status": "voided"}
    assert problem(await end(psp, held["charge_id"], "captures")) == (409, "charge-voided")
    assert problem(await authorise(psp, "k")) == (409, "charge-voided")
    assert problem(await refund(psp, held["charge_id"], "r")) == (409, "refund-too-large")
    assert await statuses(psp) == ["voided"]


async def test_a_void_that_overtakes_its_authorisation_keeps_it_from_arriving(psp: httpx.AsyncClient) -> None:
    voided = (await reverse(psp, "k")).json()
    assert (await reverse(psp, "k")).json() == voided
    assert problem(await authorise(psp, "k")) == problem(await charge(psp, "k")) == (409, "charge-voided")
    assert await charges(psp) == [voided]
    assert voided["status"] == "voided"


async def test_a_void_by_key_finds_the_authorisation(psp: httpx.AsyncClient) -> None:
    held = (await authorise(psp, "k")).json()
    assert (await reverse(psp, "k")).json() == held | {"status": "voided"}


async def test_a_void_by_key_names_what_was_authorised(psp: httpx.AsyncClient) -> None:
    await authorise(psp, "k")
    assert problem(await reverse(psp, "k", amount=1)) == (422, "idempotency-key-reused")
    assert await statuses(psp) == ["authorised"]


async def test_what_was_taken_is_not_voided(psp: httpx.AsyncClient) -> None:
    charge_id = (await charge(psp, "k")).json()["charge_id"]
    assert problem(await end(psp, charge_id, "voids")) == (409, "charge-captured")
    assert problem(await reverse(psp, "k")) == (409, "charge-captured")
    assert await statuses(psp) == ["captured"]


async def test_what_is_only_authorised_cannot_be_refunded(psp: httpx.AsyncClient) -> None:
    charge_id = (await authorise(psp, "k")).json()["charge_id"]
    assert problem(await refund(psp, charge_id, "r")) == (409, "refund-too-large")


async def test_a_key_stands_for_a_charge_or_for_an_authorisation(psp: httpx.AsyncClient) -> None:
    await charge(psp, "k1")
    await authorise(psp, "k2")
    assert problem(await authorise(psp, "k1")) == problem(await charge(psp, "k2")) == (422, "idempotency-key-reused")


@pytest.mark.parametrize("how", ["captures", "voids"])
async def test_what_was_never_authorised_does_not_end(psp: httpx.AsyncClient, how: str) -> None:
    assert problem(await end(psp, "ch_none", how)) == (404, "not-found")


async def test_captures_and_voids_at_once_end_each_authorisation_in_one_way(psp: httpx.AsyncClient) -> None:
    held = [(await authorise(psp, f"k{number}")).json()["charge_id"] for number in range(10)]
    await asyncio.gather(
        *(end(psp, charge_id, "captures") for charge_id in held),
        *(end(psp, charge_id, "voids") for charge_id in reversed(held)),
        *(reverse(psp, f"k{number}") for number in range(10)),
    )
    for charge_id, status in zip(held, await statuses(psp), strict=True):
        other = "voids" if status == "captured" else "captures"
        assert problem(await end(psp, charge_id, other)) == (409, f"charge-{status}")


async def test_a_card_that_misbehaves_does_so_when_it_is_authorised(psp: httpx.AsyncClient) -> None:
    assert problem(await authorise(psp, "k1", "tok_declined")) == (402, "card-declined")
    with pytest.raises(httpx.RemoteProtocolError):
        await authorise(psp, "k2", "tok_lost_response")
    assert (await charges(psp, key="k2"))[0]["status"] == "authorised"
    assert (await authorise(psp, "k2", "tok_lost_response")).status_code == 201


NONSENSE = (
    "",
    "{}",
    "[]",
    '{"amount_minor": 0, "currency": "EUR", "card_token": "tok_ok", "reference": "r"}',
    '{"amount_minor": 1e30, "currency": "EUR", "card_token": "tok_ok", "reference": "r"}',
    '{"amount_minor": 1, "currency": "euro", "card_token": "tok_ok", "reference": "r"}',
    '{"amount_minor": 1, "currency": "EUR", "card_token": "tok_ok", "reference": "a\\u0000b"}',
    '{"amount_minor": 1, "currency": "EUR", "card_token": "tok_ok", "reference": ""}',
    '{"amount_minor": 1, "currency": "EUR", "card_token": "tok_ok", "reference": "r", "tip": 1}',
)


async def test_a_request_that_makes_no_sense_is_refused(psp: httpx.AsyncClient) -> None:
    for body in NONSENSE:
        response = await psp.post("/v1/charges", content=body, headers={"Idempotency-Key": "k"})
        assert problem(response) == (400, "invalid-request"), body


async def test_a_void_that_makes_no_sense_is_refused(psp: httpx.AsyncClient) -> None:
    for body in ("", "{}", '{"key": "a b", "amount_minor": 1, "currency": "EUR", "reference": "r"}'):
        assert problem(await psp.post("/v1/voids", content=body)) == (400, "invalid-request"), body


async def test_every_charge_and_refund_needs_a_key(psp: httpx.AsyncClient) -> None:
    for path in ("/v1/charges", "/v1/charges/ch_1/refunds"):
        assert problem(await psp.post(path, json={"amount_minor": 1})) == (400, "idempotency-key-missing")
        for key in ("", "x" * 256, "two words"):
            response = await psp.post(path, json={"amount_minor": 1}, headers={"Idempotency-Key": key})
            assert problem(response) == (400, "idempotency-key-invalid")


async def test_a_query_that_makes_no_sense_is_refused(psp: httpx.AsyncClient) -> None:
    for query in ["reference=%00", "key=%00", "page_size=0", "page_size=1001", "page_token=AA"]:
        assert (await psp.get(f"/v1/charges?{query}")).status_code in {400, 422}, query


async def test_the_document_says_what_a_charge_consists_of(psp: httpx.AsyncClient) -> None:
    document = (await psp.get("/openapi.json")).json()["paths"]["/v1/charges"]["post"]
    assert document["parameters"][0]["name"] == "Idempotency-Key"
    schema = document["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == {"amount_minor", "currency", "card_token", "reference"}
