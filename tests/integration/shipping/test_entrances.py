"""The service over REST and gRPC, as coordinators use it, and as those do who want to know what happened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from libs.kernel.errors import Invalid
from libs.runtime.grpc_edge import call
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.shipping.v1 import shipping_pb2
from services.shipping.domain import shipment_id_of
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import serve_grpc
from tests.integration.shipping.office import MIGRATIONS
from tests.integration.shipping.serving import Served, serve_shipping
from tests.waiting import until

DO, UNDO, CONFIRM = (
    participant_pb2.OPERATION_DO,
    participant_pb2.OPERATION_UNDO,
    participant_pb2.OPERATION_CONFIRM,
)
AT_ONCE, HOLD, PREPARE = (
    participant_pb2.MANNER_UNSPECIFIED,
    participant_pb2.MANNER_HOLD,
    participant_pb2.MANNER_PREPARE,
)
MANNERS = [AT_ONCE, HOLD, PREPARE]
T1 = shipment_id_of("t1")
# Who waits for a row that is locked gives up after five seconds, and asks again.
LOCKS_SECONDS = 20.0


@pytest_asyncio.fixture
async def shipping(make_database: MakeDatabase) -> AsyncIterator[Served]:
    async with serve_shipping(await make_database("shipping", MIGRATIONS)) as served:
        await open_carrier(served)
        yield served


async def open_carrier(served: Served) -> None:
    carrier = {"carrier_id": "gull", "name": "Gull", "zones": [{"zone": "DE", "parcels_per_day": 2}]}
    made = await served.http.post("/v1/carriers", json=carrier, headers={"Idempotency-Key": "gull"})
    assert made.status_code == 201


def command(
    transaction_id: str,
    operation: participant_pb2.Operation.ValueType = DO,
    manner: participant_pb2.Manner.ValueType = AT_ONCE,
    zone: str = "DE",
    **context: Any,
) -> shipping_pb2.Command:
    about: dict[str, Any] = {"transaction_id": transaction_id, "step": "book-shipment", "operation": operation}
    said = participant_pb2.CommandContext(**about | {"manner": manner} | context)
    match operation:
        case participant_pb2.OPERATION_CONFIRM:
            return shipping_pb2.Command(context=said, confirm=shipping_pb2.ConfirmBooking())
        case participant_pb2.OPERATION_UNDO:
            return shipping_pb2.Command(context=said, cancel=shipping_pb2.Cancel())
        case _:
            address = kernel_pb2.Address(name="Ada", street="Quay 1", city="Hamburg", postcode="20457", zone=zone)
            return shipping_pb2.Command(context=said, book=shipping_pb2.Book(address=address))


async def batch(shipping: Served, *commands: shipping_pb2.Command) -> list[str]:
    """Each result in a word or two."""
    request = shipping_pb2.ExecuteBatchRequest(commands=commands)
    return [_word(result) for result in (await call(shipping.stub.ExecuteBatch, request, 10)).results]


def _word(result: shipping_pb2.Result) -> str:
    kind = result.WhichOneof("result")
    assert kind is not None
    match kind:
        case "refused":
            return result.refused.code
        case "fault":
            return f"fault {result.fault.code}"
        case _:
            return f"{kind} {getattr(result, kind).shipment_id}".rstrip()


async def status(shipping: Served, shipment_id: str) -> str:
    found = await shipping.http.get(f"/v1/shipments/{shipment_id}")
    return str(found.json()["status"]) if found.status_code == 200 else "none"


@pytest.mark.parametrize(("manner", "meanwhile"), [(HOLD, "held"), (PREPARE, "none")])
async def test_a_coordinator_has_a_place_set_aside_and_then_confirms_it(
    shipping: Served, manner: participant_pb2.Manner.ValueType, meanwhile: str
) -> None:
    assert await batch(shipping, command("t1", DO, manner)) == [f"booked {T1}"]
    assert await status(shipping, T1) == meanwhile
    for _ in range(2):
        assert await batch(shipping, command("t1", CONFIRM, manner)) == [f"confirmed {T1}"]
    assert await status(shipping, T1) == "released"


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_coordinator_takes_back_what_it_asked_for(
    shipping: Served, manner: participant_pb2.Manner.ValueType
) -> None:
    await batch(shipping, command("t1", DO, manner))
    for _ in range(2):
        told = await batch(shipping, command("t1", UNDO, manner))
        assert told == ["cancelled" if manner == PREPARE else f"cancelled {T1}"]
    again = await batch(shipping, command("t1", DO, manner))
    assert again == ["undone-before-done" if manner == PREPARE else f"booked {T1}"]
    assert await status(shipping, T1) in {"cancelled", "none"}


@pytest.mark.parametrize("manner", MANNERS)
async def test_an_undo_that_comes_first_wins_in_every_manner(
    shipping: Served, manner: participant_pb2.Manner.ValueType
) -> None:
    assert await batch(shipping, command("t1", UNDO, manner)) == ["cancelled"]
    assert await batch(shipping, command("t1", DO, manner)) == ["undone-before-done"]


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_cancelled_order_names_no_manner(shipping: Served, manner: participant_pb2.Manner.ValueType) -> None:
    await batch(shipping, command("t1", DO, manner))
    if manner != AT_ONCE:
        await batch(shipping, command("t1", CONFIRM, manner))
    assert await batch(shipping, command("t1", UNDO)) == [f"cancelled {T1}"]
    # The undo is the same one, whoever asks for it.
    assert await batch(shipping, command("t1", UNDO, manner)) == [f"cancelled {T1}"]
    assert await status(shipping, T1) == "cancelled"


async def test_commands_of_every_manner_share_a_batch(shipping: Served) -> None:
    told = await batch(
        shipping,
        command("t1", DO, HOLD),
        command("t2", DO),
        command("t3", DO, PREPARE, zone="AQ"),
        command("t4", CONFIRM, HOLD),
        command("t5", UNDO, PREPARE),
    )
    assert told == [f"booked {T1}", f"booked {shipment_id_of('t2')}", "zone-not-served", "nothing-held", "cancelled"]


async def test_a_command_that_makes_no_sense_is_its_own_problem(shipping: Served) -> None:
    mixed = command("t1", CONFIRM)
    mixed.cancel.SetInParent()
    nonsense = [
        mixed,
        shipping_pb2.Command(),
        command("a\0b"),
        command("ä", DO, PREPARE),
        command("t2", step="send-parcel"),
        command("t3", zone="nowhere"),
    ]
    assert await batch(shipping, *nonsense, command("t4")) == ["invalid"] * 6 + [f"booked {shipment_id_of('t4')}"]


# What happened.


async def trail(shipping: Served, transaction_id: str = "t1") -> tuple[list[str], list[tuple[str, bool]]]:
    """What was done, and what was kept and whether that has ended; the same over both entrances."""
    rest = (await shipping.http.get(f"/v1/transactions/{transaction_id}/trail")).json()
    told = (
        [moment["what"] for moment in rest["moments"]],
        [(kept["what"], kept["until"] is not None) for kept in rest["kept"]],
    )
    request = shipping_pb2.GetTrailRequest(transaction_id=transaction_id)
    spoken = (await call(shipping.stub.GetTrail, request, 5)).trail
    assert told == (
        [moment.what for moment in spoken.moments],
        [(kept.what, kept.until_unix_ms > 0) for kept in spoken.kept],
    )
    assert all(moment.step == "book-shipment" and moment.at_unix_ms > 0 for moment in spoken.moments)
    return told


async def test_the_trail_of_a_booking(shipping: Served) -> None:
    assert await trail(shipping) == ([], [])
    await batch(shipping, command("t1"))
    assert await trail(shipping) == (["shipment booked"], [])
    await batch(shipping, command("t1", UNDO))
    assert await trail(shipping) == (["shipment booked", "booking cancelled"], [])


async def test_the_trail_of_a_held_place(shipping: Served) -> None:
    await batch(shipping, command("t1", DO, HOLD))
    assert await trail(shipping) == (["place held"], [("capacity held", False)])
    await batch(shipping, command("t1", CONFIRM, HOLD))
    assert await trail(shipping) == (["place held", "booking confirmed"], [("capacity held", True)])


async def test_the_trail_of_a_prepared_booking(shipping: Served) -> None:
    locked = "rows locked by a prepared transaction"
    await batch(shipping, command("t1", DO, PREPARE))
    assert await trail(shipping) == (["shipment prepared"], [(locked, False)])
    await batch(shipping, command("t1", CONFIRM, PREPARE))
    assert await trail(shipping) == (["shipment prepared", "booking confirmed"], [(locked, True)])


async def test_the_trail_of_a_refusal(shipping: Served) -> None:
    await batch(shipping, command("t1", DO, HOLD, zone="AQ"), command("t2", CONFIRM, HOLD))
    assert await trail(shipping) == (["place held: refused zone-not-served"], [])
    assert await trail(shipping, "t2") == (["booking confirmed: refused nothing-held"], [])


async def test_a_trail_belongs_to_a_transaction(shipping: Served) -> None:
    assert (await shipping.http.get("/v1/transactions/a%00b/trail")).status_code in {400, 422}
    for wrong in ("", "a\0b"):
        with pytest.raises(Invalid):
            await call(shipping.stub.GetTrail, shipping_pb2.GetTrailRequest(transaction_id=wrong), 5)


# Who kept something for too long asks.


class Decided(coordination_pb2_grpc.CoordinatorServiceServicer):
    """Confirms the transactions whose name says so."""

    async def Resolve(self, request: coordination_pb2.ResolveRequest, context: Any) -> coordination_pb2.ResolveResponse:
        outcomes = [
            coordination_pb2.OUTCOME_CONFIRM if name.startswith("yes") else coordination_pb2.OUTCOME_CANCEL
            for name in request.transaction_ids
        ]
        return coordination_pb2.ResolveResponse(outcomes=outcomes)


@asynccontextmanager
async def serve_coordinator() -> AsyncIterator[str]:
    service = coordination_pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name

    def add(server: Any) -> None:
        coordination_pb2_grpc.add_CoordinatorServiceServicer_to_server(Decided(), server)

    async with serve_grpc(service, add) as (address, _):
        yield address


async def booked(shipping: Served, wanted: shipping_pb2.Command) -> list[str]:
    """Whether it is; while the day's rows belong to a prepared booking it is to be asked for again."""
    (word,) = await batch(shipping, wanted)
    assert word in {f"booked {shipment_id_of(wanted.context.transaction_id)}", "fault database-busy"}
    return [word] if word.startswith("booked") else []


async def test_what_is_kept_for_too_long_is_ended_by_asking_the_coordinator(make_database: MakeDatabase) -> None:
    async with serve_coordinator() as address:
        served = serve_shipping(
            await make_database("shipping", MIGRATIONS),
            coordinator_address=address,
            prepared_patience_seconds=0.0,
            inquiry_every_seconds=0.01,
        )
        async with served as shipping:
            await open_carrier(shipping)
            names = ["yes-held", "no-held", "yes-prepared", "no-prepared"]
            for name in names:
                manner = HOLD if name.endswith("held") else PREPARE
                await until(partial(booked, shipping, command(name, DO, manner, lease_ms=1)), LOCKS_SECONDS)

            async def ended() -> list[str]:
                trails = [(await shipping.http.get(f"/v1/transactions/{name}/trail")).json() for name in names]
                return names if all(one["until"] for told in trails for one in told["kept"]) else []

            await until(ended, LOCKS_SECONDS)
            statuses = [await status(shipping, shipment_id_of(name)) for name in names]
            assert statuses == ["released", "cancelled", "released", "none"]
            assert await batch(shipping, command("yes-held", CONFIRM, HOLD), command("no-prepared", UNDO, PREPARE)) == [
                f"confirmed {shipment_id_of('yes-held')}",
                "cancelled",
            ]
