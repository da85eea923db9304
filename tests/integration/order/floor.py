"""Where operators work: a real database, the coordinator, peers that can be told to fail, and both entrances."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx

from libs.kernel.errors import DockyardError
from libs.runtime.clock import SystemClock
from libs.runtime.http_edge import create_app
from libs.saga.calls import CommandContext, Participant
from libs.saga.definition import Command
from libs.saga.entries import AnyEntry, Parked, PivotDecided, Started, StepDone, UndoDecided, UndoDone
from libs.saga.executor import Executor
from libs.saga.log import Line, Tail
from libs.saga.postgres_log import PostgresSagaLog
from proto.order.v1 import operations_pb2, operations_pb2_grpc
from services.order.adapters.interventions import PostgresInterventions
from services.order.adapters.local import OrderParticipant
from services.order.adapters.naive import NaiveRunner
from services.order.adapters.operations import OperationsReader
from services.order.domain import ORCHESTRATED, TCC
from services.order.entrypoints import http_operations
from services.order.entrypoints.grpc_operations import TransactionServicer
from services.order.main import Runners
from services.order.operations import Action, Intervened, Intervention, Transaction, Verb
from services.order.saga import INPUTS, SAGAS
from tests.integration.edge.serving import serve_grpc, serve_http
from tests.integration.order.bureau import NOON, Bureau, open_bureau
from tests.waiting import until

WHY = "the bank was down"
BACK = {"charge": "refund", "deduct-stock": "restock", "book-shipment": "cancel-booking"}
SERVICE = operations_pb2.DESCRIPTOR.services_by_name["TransactionService"].full_name

Log = tuple[AnyEntry, ...]
# What was logged of transactions that are parked.
DONE: Log = (StepDone("place-order"), StepDone("deduct-stock"), StepDone("charge"))
AT_THE_REFUND: Log = (
    *DONE,
    UndoDecided("book-shipment", "no-capacity", "full"),
    Parked("undo of charge failed 60 times"),
)
AT_THE_PIVOT: Log = (
    *DONE,
    StepDone("book-shipment"),
    PivotDecided("confirm-order"),
    Parked("confirm-order failed 60 times"),
)
AT_THE_ORDER: Log = (
    StepDone("place-order"),
    StepDone("deduct-stock"),
    UndoDecided("charge", "card-declined", "no money"),
    UndoDone("deduct-stock"),
    Parked("undo of place-order failed 60 times"),
)
AT_A_CONFIRM: Log = (
    StepDone("place-order"),
    *(StepDone(f"hold-{what}") for what in ("stock", "payment", "shipment")),
    PivotDecided("decide-confirm"),
    StepDone("decide-confirm"),
    StepDone("confirm-stock"),
    StepDone("confirm-shipment"),
    Parked("confirm-payment failed 60 times"),
)


class Peer:
    """A participant that remembers what it was asked, and keeps whom it should waiting."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._more = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def execute(self, command: Command, context: CommandContext) -> Any:
        await self.may_answer.wait()
        async with self._more:
            self.asked.append(f"{command.name} {command.body.order_id}")
            self._more.notify_all()
        return {}

    def of(self, order_id: str) -> list[str]:
        """What it was asked about one order."""
        return [one.split()[0] for one in self.asked if one.endswith(f" {order_id}")]

    async def until_asked(self, order_id: str, times: int) -> None:
        async with self._more:
            await self._more.wait_for(lambda: len(self.of(order_id)) >= times)


class Floor:
    def __init__(self, bureau: Bureau) -> None:
        self.bureau = bureau
        self.peer = Peer()
        clock = SystemClock()
        self.log = PostgresSagaLog(bureau.database, INPUTS, clock)
        everybody: dict[str, Participant] = {
            "order": OrderParticipant(bureau.changing, clock),
            **dict.fromkeys(("inventory", "payment", "shipping"), self.peer),
        }
        self.executor = Executor(SAGAS, everybody, self.log, clock)
        naive = NaiveRunner(everybody, bureau.changing, clock, 10)
        self.runners = Runners([], self.executor, naive)
        self.reader = OperationsReader(bureau.database, SAGAS, self.log, bureau.queries, clock)
        self.interventions = PostgresInterventions(bureau.database, self.reader, bureau.units, self.executor, clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The coordinator runs meanwhile, and hears of what is committed."""
        self.bureau.units.on_commit = self.runners.committed
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(self.executor.run())
            await until(self._holds_the_right, 10)
            yield
            loop.cancel()
        await self.executor.drain()

    async def _holds_the_right(self) -> Sequence[object]:
        return await self.bureau.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted")

    async def park(self, order_id: str, *lines: AnyEntry, style: str = ORCHESTRATED) -> None:
        """An order whose checkout has come to rest with these lines."""
        await self.bureau.place(order_id, style)
        await self.log_lines(order_id, Started(), *lines)
        if style == TCC:
            assert await self.bureau.confirm(order_id) == "confirmed"

    async def log_lines(self, saga_id: str, *entries: AnyEntry) -> None:
        lines = [Line(seq, NOON, entry) for seq, entry in enumerate(entries, 1)]
        assert not await self.log.write([Tail(saga_id, lines)])

    # What operators do.

    async def intervene(
        self, verb: Verb, transaction_id: str, key: str = "", step: str = "", proof: str = "", why: str = WHY
    ) -> Intervened:
        key = key or f"{verb}-{transaction_id}"
        return await self.interventions.intervene(Intervention(key, verb, transaction_id, "olga", why, step, proof))

    async def told(self, verb: Verb, transaction_id: str, key: str = "", step: str = "", proof: str = "") -> str:
        """The outcome, or the code of the refusal."""
        try:
            return (await self.intervene(verb, transaction_id, key, step, proof)).action.outcome
        except DockyardError as error:
            return error.code

    # What is left.

    async def seen(self, transaction_id: str) -> Transaction:
        return await self.reader.get(transaction_id)

    async def words(self, transaction_id: str) -> list[str]:
        """The names of the lines of its log."""
        found = await self.log.load([transaction_id])
        return [type(line.entry).__name__ for line in found[transaction_id].lines]

    async def actions(self, transaction_id: str = "") -> list[Action]:
        return list((await self.reader.actions(transaction_id, 100, "")).actions)

    async def outcomes(self, transaction_id: str = "") -> list[str]:
        """What was done or refused, newest first."""
        return [f"{one.verb} {one.outcome}" for one in await self.actions(transaction_id)]

    async def until_ended(self, *transaction_ids: str) -> None:
        async def ended() -> bool:
            found = [await self.seen(transaction_id) for transaction_id in transaction_ids]
            return all(one.status == "ended" for one in found)

        await until(ended, 10)


@asynccontextmanager
async def open_floor(url: str) -> AsyncIterator[Floor]:
    async with open_bureau(url) as bureau:
        yield Floor(bureau)


@asynccontextmanager
async def serving_rest(floor: Floor) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app("order", "For operators.", http_operations.router(floor.reader, floor.interventions))
    async with serve_http(app) as client:
        yield client


@asynccontextmanager
async def serving_grpc(floor: Floor) -> AsyncIterator["operations_pb2_grpc.TransactionServiceAsyncStub"]:
    def add(server: grpc.aio.Server) -> None:
        servicer = TransactionServicer(floor.reader, floor.interventions)
        operations_pb2_grpc.add_TransactionServiceServicer_to_server(servicer, server)

    async with serve_grpc(SERVICE, add) as (_, peer):
        yield operations_pb2_grpc.TransactionServiceStub(peer)
