"""The payment process is killed at every durable write and around every call; the end is always the undisturbed one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest_asyncio

from dockyard.local.ports import free_port
from dockyard.local.waiting import wait_until
from libs.runtime import failpoints
from libs.runtime.clock import SystemClock
from services.payment.adapters.units import COMMIT_AFTER, COMMIT_BEFORE
from services.payment.cashier import CALL_AFTER, CALL_BEFORE
from tests.conftest import MakeDatabase
from tests.integration.payment.till import MIGRATIONS, rows
from tests.integration.psp.serving import MIGRATIONS as PSP_MIGRATIONS

ROOT = Path(__file__).parents[3]
READY_SECONDS = DEATH_SECONDS = 20.0
# Begin, ask, settle: two commits with a call between them; and what to call them where an @ is not allowed.
PLACES = {
    place: place.replace("@", "-")
    for place in (
        COMMIT_BEFORE,
        COMMIT_AFTER,
        CALL_BEFORE,
        CALL_AFTER,
        f"{COMMIT_BEFORE}@2",
        f"{COMMIT_AFTER}@2",
    )
}
# From here on the payment is written down: it goes on even when nobody asks.
BEGUN = (CALL_BEFORE, CALL_AFTER)
CHARGE = {"account_id": "ada", "amount": {"minor_units": 4900, "currency": "EUR"}, "card_token": "tok_ok"}
CHARGES = "SELECT reference, amount_minor - refunded_minor FROM charges"
POSTED = "SELECT payment_id, sum(amount_minor)::int FROM postings WHERE account = 'customer:ada' GROUP BY payment_id"
UNBALANCED = "SELECT entry_id, sum(amount_minor)::int FROM postings GROUP BY entry_id HAVING sum(amount_minor) <> 0"
UNFINISHED = "SELECT payment_id, 0 FROM payments WHERE status IN ('charging', 'refunding')"


@dataclass(slots=True)
class Service:
    """A service as a process of its own, which may be told where to die."""

    name: str
    fields: dict[str, str]
    port: int

    @contextmanager
    def running(self, **fields: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The process, with these settings besides its own; leaving kills it."""
        settings = {f"DOCKYARD_{self.name.upper()}_{name}": value for name, value in (self.fields | fields).items()}
        command = [sys.executable, "-m", f"services.{self.name}.main"]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.DEVNULL) as process:
            try:
                assert wait_until(self._ready, SystemClock(), READY_SECONDS), f"{self.name} does not get ready"
                yield process
            finally:
                process.kill()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(slots=True)
class Counter:
    """Where money is taken: payment and the processor, each with its records."""

    payment: Service
    payment_database: str
    psp_database: str

    async def charge(self, *transaction_ids: str) -> list[int]:
        """The statuses of charges made at once; 0 where there was no answer."""
        return await self._post("/v1/payments", [CHARGE | {"transaction_id": one} for one in transaction_ids])

    async def refund(self, *transaction_ids: str) -> list[int]:
        return [
            status for one in transaction_ids for status in await self._post(f"/v1/transactions/{one}/refund", [None])
        ]

    async def _post(self, path: str, bodies: Sequence[object]) -> list[int]:
        async with httpx.AsyncClient(base_url=self.payment.url, timeout=15, trust_env=False) as client:
            return await asyncio.gather(*(_status(client, path, body) for body in bodies))

    async def unfinished(self) -> int:
        return len(await rows(self.payment_database, UNFINISHED))

    async def books(self) -> dict[str, tuple[int, int]]:
        """What was taken for each transaction in the end: by the processor, and by the ledger."""
        unbalanced = await rows(self.payment_database, UNBALANCED)
        assert unbalanced == []
        names = dict(await rows(self.payment_database, "SELECT payment_id, transaction_id FROM payments"))
        kept, posted = await rows(self.psp_database, CHARGES), dict(await rows(self.payment_database, POSTED))
        assert len(kept) == len(dict(kept)), "charged twice"
        assert {reference for reference, _ in kept} <= set(names), "charged without a payment"
        return {str(name): (dict(kept).get(one, 0), posted.get(one, 0)) for one, name in names.items()}


async def _status(client: httpx.AsyncClient, path: str, body: object) -> int:
    try:
        return (await client.post(path, json=body, headers={"Idempotency-Key": "k"})).status_code
    except httpx.HTTPError:
        return 0


@pytest_asyncio.fixture
async def counter(make_database: MakeDatabase) -> AsyncIterator[Counter]:
    psp_database = await make_database("psp", PSP_MIGRATIONS)
    payment_database = await make_database("payment", MIGRATIONS)
    psp = _service("psp", {"DATABASE_URL": psp_database})
    # Nobody is to go on with what an earlier crash left behind, unless a test says so.
    fields = {"GRPC_PORT": str(free_port()), "PSP_URL": psp.url, "RESUME_AFTER_SECONDS": "3600"}
    payment = _service("payment", {"DATABASE_URL": payment_database, **fields})
    with psp.running():
        yield Counter(payment, payment_database, psp_database)


def _service(name: str, fields: dict[str, str]) -> Service:
    port = free_port()
    return Service(name, fields | {"HTTP_PORT": str(port)}, port)


def killed(process: "subprocess.Popen[bytes]") -> bool:
    return process.wait(DEATH_SECONDS) == -signal.SIGKILL


def test_every_place_a_payment_can_die_at_is_tried() -> None:
    ours = {name for name in failpoints.declared() if name.startswith("payment.")}
    assert {place.partition("@")[0] for place in PLACES} == ours


async def test_a_charge_is_made_once_or_taken_back_wherever_the_process_died(counter: Counter) -> None:
    again, back = [f"again-{one}" for one in PLACES.values()], [f"back-{one}" for one in PLACES.values()]
    for place, name in PLACES.items():
        with counter.payment.running(FAILPOINT=place) as process:
            assert 0 in await counter.charge(f"again-{name}", f"back-{name}"), place
            assert killed(process), place
    with counter.payment.running():
        assert set(await counter.refund(*back)) == {200}
        assert await counter.charge(*again) == await counter.charge(*again) == [201] * len(again)
        # Each was made and taken back, or can never be made any more.
        assert set(await counter.charge(*back)) <= {201, 409}
    books = await counter.books()
    assert {one: books[one] for one in again} == dict.fromkeys(again, (4900, 4900))
    assert {books[one] for one in back if one in books} == {(0, 0)}


async def test_a_refund_is_made_once_wherever_the_process_died(counter: Counter) -> None:
    with counter.payment.running():
        assert await counter.charge(*PLACES.values()) == [201] * len(PLACES)
    for place, name in PLACES.items():
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.refund(name) == [0], place
            assert killed(process), place
    with counter.payment.running():
        for _ in range(2):
            assert await counter.refund(*PLACES.values()) == [200] * len(PLACES)
    assert await counter.books() == dict.fromkeys(PLACES.values(), (0, 0))


async def test_what_was_begun_is_carried_on_though_nobody_asks_again(counter: Counter) -> None:
    for place in BEGUN:
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.charge(f"charge-{place}") == [0], place
            assert killed(process), place
    with counter.payment.running():
        assert await counter.charge("refund") == [201]
    with counter.payment.running(FAILPOINT=CALL_AFTER) as process:
        assert await counter.refund("refund") == [0]
        assert killed(process)
    assert await counter.unfinished() == len(BEGUN) + 1
    with counter.payment.running(RESUME_AFTER_SECONDS="0", RESUME_EVERY_SECONDS="0.1"):
        async with asyncio.timeout(READY_SECONDS):
            while await counter.unfinished():  # noqa: ASYNC110  (see below)
                await asyncio.sleep(0.05)  # another process's database sets no event of ours
    assert await counter.books() == {f"charge-{place}": (4900, 4900) for place in BEGUN} | {"refund": (0, 0)}
