"""A shop in memory that keeps the participants' promise behind the barrier, and may be told to misbehave on the way."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from libs.kernel.errors import Refused
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command
from libs.tcc.barrier import Empty, Entry, First, Key, Operation, Replay, Suspended
from libs.tcc.memory_barrier import MemoryBarrier

Deliver = Callable[[], Awaitable[Any]]
# What happens to a command between the coordinator and the shop; it may deliver it at once, later, twice or never.
Network = Callable[[Command, CommandContext, Deliver], Awaitable[Any]]

NOTHING = b'"nothing"'
REFUSED = b'"refused"'


async def reliable(_: Command, __: CommandContext, deliver: Deliver) -> Any:
    return await deliver()


class Shop:
    """Has each effect once. `sold_out` names the (saga, step) pairs it refuses."""

    def __init__(self, network: Network = reliable, sold_out: frozenset[tuple[str, str]] = frozenset()) -> None:
        self.calls: list[str] = []
        self.contexts: list[CommandContext] = []
        self.dos: Counter[tuple[str, str]] = Counter()
        self.undos: Counter[tuple[str, str]] = Counter()
        self._network = network
        self._sold_out = sold_out
        self._barrier = MemoryBarrier()

    async def execute(self, command: Command, context: CommandContext) -> Any:
        self.calls.append(f"{context.saga_id} {context.step}.{context.operation}")
        self.contexts.append(context)
        return await self._network(command, context, lambda: self._deliver(context))

    def standing(self, saga_id: str, step: str) -> int:
        """Effects that were not undone."""
        return self.dos[saga_id, step] - self.undos[saga_id, step]

    async def _deliver(self, context: CommandContext) -> Any:
        key = Key(context.saga_id, context.step, Operation(context.operation))
        (claim,) = await self._barrier.claim([Entry(key, b"")])
        match claim:
            case Replay(answer=kept):
                return _read(kept)
            case Suspended():
                raise Refused("it was undone before it was done", code="undone-before-done")
            case First(do_answer=do_answer):
                answer = self._do(key) if key.operation is Operation.DO else self._undo(key, do_answer)
            case Empty():
                answer = NOTHING
            case other:
                raise AssertionError(f"unexpected claim {other}")
        await self._barrier.answer([(key, answer)])
        return _read(answer)

    def _do(self, key: Key) -> bytes:
        if (key.transaction_id, key.step) in self._sold_out:
            return REFUSED
        self.dos[key.transaction_id, key.step] += 1
        return msgspec.json.encode({"done": key.step})

    def _undo(self, key: Key, do_answer: bytes | None) -> bytes:
        if do_answer == REFUSED:
            return NOTHING
        self.undos[key.transaction_id, key.step] += 1
        return msgspec.json.encode({"undone": key.step})


def _read(answer: bytes) -> Any:
    if answer == REFUSED:
        raise Refused("none left", code="sold-out")
    return msgspec.json.decode(answer)


async def settle(turns: int = 40) -> None:
    """Lets everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def pass_time(clock: ManualClock, seconds: float, tick: float = 0.05) -> None:
    """Moves the clock on in small steps, and lets everything happen in between."""
    for _ in range(round(seconds / tick)):
        await settle()
        clock.advance(tick)
    await settle()
