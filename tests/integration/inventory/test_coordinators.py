"""The service as coordinators use it in every manner, and as those do who want to know what happened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from libs.kernel.errors import Invalid
from libs.runtime.grpc_edge import call
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc
from proto.inventory.v1 import inventory_pb2
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import serve_grpc
from tests.integration.inventory.serving import Served, serve_inventory
from tests.integration.inventory.storeroom import MIGRATIONS
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


@pytest_asyncio.fixture
async def inventory(make_database: MakeDatabase) -> AsyncIterator[Served]:
    async with serve_inventory(await make_database("inventory", MIGRATIONS)) as served:
        await list_products(served)
        yield served


async def list_products(served: Served) -> None:
    """Ten lamps, and a rope."""
    price = {"minor_units": 4900, "currency": "EUR"}
    products = [
        {"sku": sku, "name": sku, "price": price, "on_hand": count} for sku, count in (("lamp", 10), ("rope", 1))
    ]
    made = await served.http.post("/v1/products", json={"products": products}, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201


def command(
    transaction_id: str,
    operation: participant_pb2.Operation.ValueType = DO,
    manner: participant_pb2.Manner.ValueType = AT_ONCE,
    sku: str = "lamp",
    **context: Any,
) -> inventory_pb2.Command:
    about: dict[str, Any] = {"transaction_id": transaction_id, "step": "deduct-stock", "operation": operation}
    said = participant_pb2.CommandContext(**about | {"manner": manner} | context)
    match operation:
        case participant_pb2.OPERATION_CONFIRM:
            return inventory_pb2.Command(context=said, confirm=inventory_pb2.ConfirmDeduction())
        case participant_pb2.OPERATION_UNDO:
            return inventory_pb2.Command(context=said, restock=inventory_pb2.RestockDeducted())
        case _:
            lines = [kernel_pb2.Line(sku=sku, quantity=2)]
            return inventory_pb2.Command(context=said, deduct_stock=inventory_pb2.DeductStock(lines=lines))


async def batch(inventory: Served, *commands: inventory_pb2.Command) -> list[str]:
    """Each result in a word or two."""
    request = inventory_pb2.ExecuteBatchRequest(commands=commands)
    return [_word(result) for result in (await call(inventory.stub.ExecuteBatch, request, 10)).results]


def _word(result: inventory_pb2.Result) -> str:
    kind = result.WhichOneof("result")
    assert kind is not None
    match kind:
        case "refused":
            return result.refused.code
        case "fault":
            return f"fault {result.fault.code}"
        case _:
            lines = " ".join(f"{line.sku}={line.quantity}" for line in getattr(result, kind).lines)
            return f"{kind} {lines or 'nothing'}"


async def stock(inventory: Served, sku: str = "lamp") -> tuple[int, int, int]:
    """On hand, reserved, sold; the same over both entrances."""
    rest = (await inventory.http.get(f"/v1/products/{sku}")).json()
    spoken = (await call(inventory.stub.GetProduct, inventory_pb2.GetProductRequest(sku=sku), 5)).product
    counted = (spoken.on_hand, spoken.reserved, spoken.sold)
    assert counted == (rest["on_hand"], rest["reserved"], rest["sold"])
    return counted


@pytest.mark.parametrize(("manner", "meanwhile"), [(HOLD, (8, 2, 0)), (PREPARE, (10, 0, 0))])
async def test_a_coordinator_has_stock_set_aside_and_then_confirms_it(
    inventory: Served, manner: participant_pb2.Manner.ValueType, meanwhile: tuple[int, int, int]
) -> None:
    assert await batch(inventory, command("t1", DO, manner)) == ["stock_deducted lamp=2"]
    assert await stock(inventory) == meanwhile
    for _ in range(2):
        assert await batch(inventory, command("t1", CONFIRM, manner)) == ["confirmed lamp=2"]
    assert await stock(inventory) == (8, 0, 2)


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_coordinator_takes_back_what_it_asked_for(
    inventory: Served, manner: participant_pb2.Manner.ValueType
) -> None:
    await batch(inventory, command("t1", DO, manner))
    for _ in range(2):
        told = await batch(inventory, command("t1", UNDO, manner))
        assert told == ["restocked nothing" if manner == PREPARE else "restocked lamp=2"]
    again = await batch(inventory, command("t1", DO, manner))
    assert again == ["undone-before-done" if manner == PREPARE else "stock_deducted lamp=2"]
    assert await stock(inventory) == (10, 0, 0)


@pytest.mark.parametrize("manner", MANNERS)
async def test_an_undo_that_comes_first_wins_in_every_manner(
    inventory: Served, manner: participant_pb2.Manner.ValueType
) -> None:
    assert await batch(inventory, command("t1", UNDO, manner)) == ["restocked nothing"]
    assert await batch(inventory, command("t1", DO, manner)) == ["undone-before-done"]


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_cancelled_order_names_no_manner(inventory: Served, manner: participant_pb2.Manner.ValueType) -> None:
    await batch(inventory, command("t1", DO, manner))
    if manner != AT_ONCE:
        await batch(inventory, command("t1", CONFIRM, manner))
    assert await batch(inventory, command("t1", UNDO)) == ["restocked lamp=2"]
    # The undo is the same one, whoever asks for it.
    assert await batch(inventory, command("t1", UNDO, manner)) == ["restocked lamp=2"]
    assert await stock(inventory) == (10, 0, 0)


@pytest.mark.parametrize("manner", [HOLD, PREPARE])
async def test_a_confirmation_that_comes_after_the_undo_is_told_that_nothing_is_left(
    inventory: Served, manner: participant_pb2.Manner.ValueType
) -> None:
    await batch(inventory, command("t1", DO, manner))
    await batch(inventory, command("t1", UNDO, manner))
    told = await batch(inventory, command("t1", CONFIRM, manner))
    assert told == ["nothing-held" if manner == PREPARE else "confirmed nothing"]
    assert await stock(inventory) == (10, 0, 0)


async def test_commands_of_every_manner_share_a_batch(inventory: Served) -> None:
    told = await batch(
        inventory,
        command("t1", DO, HOLD),
        command("t2", DO),
        command("t3", DO, PREPARE, sku="rope"),
        command("t4", CONFIRM, HOLD),
        command("t5", UNDO, PREPARE),
    )
    assert told == [
        "stock_deducted lamp=2",
        "stock_deducted lamp=2",
        "out-of-stock",
        "nothing-held",
        "restocked nothing",
    ]


async def test_a_command_that_makes_no_sense_is_its_own_problem(inventory: Served) -> None:
    mixed = command("t1", CONFIRM)
    mixed.restock.SetInParent()
    unheard = command("t6")
    unheard.context.manner = 9  # type: ignore[assignment]
    nonsense = [
        mixed,
        inventory_pb2.Command(),
        command("a\0b", CONFIRM, HOLD),
        command("\u00e4", DO, PREPARE),
        command("t2", CONFIRM, step="confirm-stock"),
        unheard,
    ]
    assert await batch(inventory, *nonsense, command("t4")) == ["invalid"] * 6 + ["stock_deducted lamp=2"]


# What happened.


async def trail(inventory: Served, transaction_id: str = "t1") -> tuple[list[str], list[tuple[str, bool]]]:
    """What was done, and what was kept and whether that has ended; the same over both entrances."""
    rest = (await inventory.http.get(f"/v1/transactions/{transaction_id}/trail")).json()
    told = (
        [moment["what"] for moment in rest["moments"]],
        [(kept["what"], kept["until"] is not None) for kept in rest["kept"]],
    )
    request = inventory_pb2.GetTrailRequest(transaction_id=transaction_id)
    spoken = (await call(inventory.stub.GetTrail, request, 5)).trail
    assert told == (
        [moment.what for moment in spoken.moments],
        [(kept.what, kept.until_unix_ms > 0) for kept in spoken.kept],
    )
    assert all(moment.step == "deduct-stock" and moment.at_unix_ms > 0 for moment in spoken.moments)
    return told


async def test_the_trail_of_a_deduction(inventory: Served) -> None:
    assert await trail(inventory) == ([], [])
    await batch(inventory, command("t1"))
    assert await trail(inventory) == (["stock deducted"], [])
    await batch(inventory, command("t1", UNDO))
    assert await trail(inventory) == (["stock deducted", "stock returned"], [])


async def test_the_trail_of_held_stock(inventory: Served) -> None:
    await batch(inventory, command("t1", DO, HOLD))
    assert await trail(inventory) == (["stock held"], [("stock held", False)])
    await batch(inventory, command("t1", CONFIRM, HOLD))
    assert await trail(inventory) == (["stock held", "deduction confirmed"], [("stock held", True)])


async def test_the_trail_of_a_prepared_deduction(inventory: Served) -> None:
    locked = "rows locked by a prepared transaction"
    await batch(inventory, command("t1", DO, PREPARE))
    assert await trail(inventory) == (["deduction prepared"], [(locked, False)])
    await batch(inventory, command("t1", CONFIRM, PREPARE))
    assert await trail(inventory) == (["deduction prepared", "deduction confirmed"], [(locked, True)])


async def test_the_trail_of_a_refusal(inventory: Served) -> None:
    await batch(inventory, command("t1", DO, HOLD, sku="rope"), command("t2", CONFIRM, HOLD))
    assert await trail(inventory) == (["stock held: refused out-of-stock"], [])
    assert await trail(inventory, "t2") == (["deduction confirmed: refused nothing-held"], [])


async def test_a_trail_belongs_to_a_transaction(inventory: Served) -> None:
    answer: httpx.Response = await inventory.http.get("/v1/transactions/a%00b/trail")
    assert answer.status_code in {400, 422}
    for wrong in ("", "a\0b"):
        with pytest.raises(Invalid):
            await call(inventory.stub.GetTrail, inventory_pb2.GetTrailRequest(transaction_id=wrong), 5)


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


async def test_what_is_kept_for_too_long_is_ended_by_asking_the_coordinator(make_database: MakeDatabase) -> None:
    async with serve_coordinator() as address:
        served = serve_inventory(
            await make_database("inventory", MIGRATIONS),
            coordinator_address=address,
            prepared_patience_seconds=0.0,
            inquiry_every_seconds=0.01,
        )
        async with served as inventory:
            await list_products(inventory)
            names = ["yes-held", "no-held", "yes-prepared", "no-prepared"]
            for name in names:
                manner = HOLD if name.endswith("held") else PREPARE
                assert await batch(inventory, command(name, DO, manner, lease_ms=1)) == ["stock_deducted lamp=2"]

            async def ended() -> list[str]:
                found = [(await inventory.http.get(f"/v1/transactions/{name}/trail")).json()["kept"] for name in names]
                return names if all(one["until"] for kept in found for one in kept) else []

            await until(ended)
            assert await stock(inventory) == (6, 0, 4)
            late = [command("yes-held", CONFIRM, HOLD), command("no-prepared", UNDO, PREPARE)]
            assert await batch(inventory, *late) == ["confirmed lamp=2", "restocked nothing"]
