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
from libs.kernel.errors import DockyardError
from libs.runtime import failpoints
from libs.runtime.clock import SystemClock
from libs.runtime.grpc_edge import call, channel
from libs.twophase.prepared import AFTER_COMMIT, AFTER_PREPARE, BEFORE_COMMIT, BEFORE_PREPARE
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
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
CHARGES = "SELECT reference, amount_minor - refunded_minor FROM charges WHERE status = 'captured'"
HELD = "SELECT reference, 1 FROM charges WHERE status = 'authorised'"
POSTED = "SELECT payment_id, sum(amount_minor)::int FROM postings WHERE account = 'customer:ada' GROUP BY payment_id"
UNBALANCED = "SELECT entry_id, sum(amount_minor)::int FROM postings GROUP BY entry_id HAVING sum(amount_minor) <> 0"
UNFINISHED = "SELECT payment_id, 0 FROM payments WHERE status LIKE '%ing'"
DO, UNDO, CONFIRM = (
    participant_pb2.OPERATION_DO,
    participant_pb2.OPERATION_UNDO,
    participant_pb2.OPERATION_CONFIRM,
)
HOLD, PREPARE = participant_pb2.MANNER_HOLD, participant_pb2.MANNER_PREPARE


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

    async def tell(
        self,
        operation: participant_pb2.Operation.ValueType,
        *transaction_ids: str,
        manner: participant_pb2.Manner.ValueType = HOLD,
    ) -> list[str]:
        """What coordinators hear of these commands, in a word each; nothing where there was no answer."""
        commands = [_command(operation, one, manner) for one in transaction_ids]
        async with channel(f"127.0.0.1:{self.payment.fields['GRPC_PORT']}") as peer:
            execute = payment_pb2_grpc.PaymentServiceStub(peer).ExecuteBatch
            try:
                answer = await call(execute, payment_pb2.ExecuteBatchRequest(commands=commands), 15)
            except DockyardError:
                return []
        return [
            result.refused.code or result.fault.code or str(result.WhichOneof("result")) for result in answer.results
        ]

    async def held(self) -> list[tuple[str, int]]:
        """What is still set aside at the processor."""
        return await rows(self.psp_database, HELD)

    async def statuses(self) -> dict[str, str]:
        found = await rows(self.payment_database, "SELECT transaction_id || ' ' || status, 0 FROM payments")
        return {name: status for name, _, status in (str(one).partition(" ") for one, _ in found)}

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


def _command(
    operation: participant_pb2.Operation.ValueType, transaction_id: str, manner: participant_pb2.Manner.ValueType
) -> payment_pb2.Command:
    context = participant_pb2.CommandContext(
        transaction_id=transaction_id, step="charge", operation=operation, manner=manner
    )
    if operation == UNDO:
        return payment_pb2.Command(context=context, refund=payment_pb2.RefundCharge())
    if operation == CONFIRM:
        return payment_pb2.Command(context=context, capture=payment_pb2.CaptureCharge())
    amount = kernel_pb2.Money(minor_units=4900, currency="EUR")
    charge = payment_pb2.ChargeCard(account_id="ada", amount=amount, card_token="tok_ok")
    return payment_pb2.Command(context=context, charge=charge)


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


# Charges that are held, or prepared.


async def test_what_is_held_is_captured_or_given_up_once_wherever_the_process_died(counter: Counter) -> None:
    keep, drop = [f"keep-{one}" for one in PLACES.values()], [f"drop-{one}" for one in PLACES.values()]
    for place, name in PLACES.items():
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.tell(DO, f"keep-{name}", f"drop-{name}") == [], place
            assert killed(process), place
    with counter.payment.running():
        assert await counter.tell(DO, *keep) == ["charged"] * len(keep)
    for place, name in PLACES.items():
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.tell(CONFIRM, f"keep-{name}") == [], place
            assert killed(process), place
        with counter.payment.running(FAILPOINT=place) as process:
            # What was never begun is given up without anything to ask.
            told = await counter.tell(UNDO, f"drop-{name}")
            assert (told == [] and killed(process)) or told == ["refunded"], place
    with counter.payment.running():
        for _ in range(2):
            assert await counter.tell(CONFIRM, *keep) == ["captured"] * len(keep)
            assert await counter.tell(UNDO, *drop) == ["refunded"] * len(drop)
    books = await counter.books()
    assert {one: books[one] for one in keep} == dict.fromkeys(keep, (4900, 4900))
    assert {books[one] for one in drop if one in books} == {(0, 0)}
    assert (await counter.held(), await counter.unfinished()) == ([], 0)


async def test_what_is_prepared_is_captured_or_given_up_once_wherever_the_process_died(counter: Counter) -> None:
    around = (BEFORE_PREPARE, AFTER_PREPARE)
    for place in around:
        for what in ("keep", "drop"):
            with counter.payment.running(FAILPOINT=place) as process:
                assert await counter.tell(DO, f"{what}-{place}", manner=PREPARE) == [], place
                assert killed(process), place
    keep, drop = [f"keep-{place}" for place in around], [f"drop-{place}" for place in around]
    with counter.payment.running():
        assert await counter.tell(DO, *keep, manner=PREPARE) == ["charged"] * 2
        assert await counter.tell(UNDO, *drop, manner=PREPARE) == ["refunded"] * 2
    for place, name in zip((BEFORE_COMMIT, AFTER_COMMIT), keep, strict=True):
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.tell(CONFIRM, name, manner=PREPARE) == [], place
            assert killed(process), place
    with counter.payment.running():
        assert await counter.tell(CONFIRM, *keep, manner=PREPARE) == ["captured"] * 2
    assert await counter.books() == dict.fromkeys(keep, (4900, 4900)) | dict.fromkeys(drop, (0, 0))
    assert (await counter.held(), await counter.unfinished()) == ([], 0)


async def test_what_was_begun_of_a_held_charge_is_carried_on_though_nobody_asks_again(counter: Counter) -> None:
    with counter.payment.running():
        assert await counter.tell(DO, "capturing", "voiding") == ["charged"] * 2
        assert await counter.tell(DO, "prepared", manner=PREPARE) == ["charged"]
    for operation, name, place in (
        (DO, "authorising", CALL_BEFORE),
        (CONFIRM, "capturing", CALL_AFTER),
        (UNDO, "voiding", CALL_AFTER),
    ):
        with counter.payment.running(FAILPOINT=place) as process:
            assert await counter.tell(operation, name) == []
            assert killed(process)
    with counter.payment.running(FAILPOINT=AFTER_COMMIT) as process:
        assert await counter.tell(CONFIRM, "prepared", manner=PREPARE) == []
        assert killed(process)
    begun = {"authorising": "authorising", "capturing": "capturing", "voiding": "voiding", "prepared": "capturing"}
    assert await counter.statuses() == begun
    with counter.payment.running(RESUME_AFTER_SECONDS="0", RESUME_EVERY_SECONDS="0.1"):
        async with asyncio.timeout(READY_SECONDS):
            while await counter.unfinished():  # noqa: ASYNC110  (as above)
                await asyncio.sleep(0.05)
    ended = {"authorising": "authorised", "capturing": "charged", "voiding": "voided", "prepared": "charged"}
    assert await counter.statuses() == ended
    assert {name for name, money in (await counter.books()).items() if money == (4900, 4900)} == {
        "capturing",
        "prepared",
    }
