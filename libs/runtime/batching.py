"""Natural batching: what arrives while one batch is in flight becomes the next one.

An idle service answers at once, a loaded one commits a hundred requests together. There is no timer and no added
wait: the size of a batch follows the load by itself, as in a database's group commit (DeWitt et al., "Implementation
Techniques for Main Memory Database Systems", SIGMOD 1984).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar, cast

from libs.kernel.errors import DockyardError, InDoubt, Overloaded, Unavailable
from libs.telemetry import metrics, names
from libs.telemetry.tracing import current_traceparent, is_recording, span

C = TypeVar("C")
R = TypeVar("R")

Handle = Callable[[Sequence[C]], Awaitable[Sequence[R | DockyardError]]]


class _Entry(Generic[C, R]):
    __slots__ = ("answer", "item", "traceparent")

    def __init__(self, item: C, answer: "asyncio.Future[R] | None", traceparent: str) -> None:
        self.item = item
        self.answer = answer
        self.traceparent = traceparent


class Batcher(Generic[C, R]):
    """Gives `handle` the waiting items, many at a time, and each submitter its own outcome.

    `handle` returns one outcome for each item, in order; a DockyardError outcome fails its item alone. Items of one
    `key` never share a batch nor overlap: the later one waits for the next batch, and order is kept within the key.
    """

    def __init__(
        self,
        name: str,
        handle: Handle[C, R],
        *,
        batch_rows_max: int = 256,
        queue_rows_max: int = 4096,
        in_flight_max: int = 1,
        key: Callable[[C], Hashable] | None = None,
        on_lost: Callable[[C, BaseException], None] | None = None,
    ) -> None:
        assert batch_rows_max >= 1 and queue_rows_max >= 1 and in_flight_max >= 1
        self.name = name
        self._handle = handle
        self._batch_rows_max = batch_rows_max
        self._queue_rows_max = queue_rows_max
        self._in_flight_max = in_flight_max
        self._key = key
        self._on_lost = on_lost
        self._waiting: deque[_Entry[C, R]] = deque()
        self._busy_keys: set[Hashable] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, item: C, *, patient: bool = False) -> R:
        """The item's own answer. Raises its own error, Overloaded when the queue is full, Unavailable when draining.

        A `patient` item goes along with the next batch that somebody else causes: its caller sees to it that one comes.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._enqueue(_Entry(item, answer, current_traceparent()), patient)
        return await answer

    def offer(self, item: C) -> None:
        """Takes the item, in order with the others, without an answer; `on_lost` hears of one that failed."""
        self._enqueue(_Entry(item, None, current_traceparent()), patient=False)

    async def drain(self) -> None:
        """Takes nothing new and returns when everything taken has been answered."""
        self._closed = True
        if self._waiting:
            self._hire()
        while self._workers:
            await asyncio.wait(self._workers)

    def _enqueue(self, entry: _Entry[C, R], patient: bool) -> None:
        if self._closed:
            raise Unavailable(f"{self.name} is shutting down")
        if len(self._waiting) >= self._queue_rows_max:
            raise Overloaded(f"{self.name} has {self._queue_rows_max} requests waiting", retry_after_seconds=1.0)
        self._waiting.append(entry)
        if not patient:
            self._hire()

    def _hire(self) -> None:
        if len(self._workers) < self._in_flight_max:
            # The worker takes its batch when it first runs: everything submitted in this turn of the loop is in it. It
            # works for all of them, so it does not run in the trace of whoever came first.
            worker = asyncio.get_running_loop().create_task(self._work(), context=Context())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        while batch := self._take():
            keys = [self._key(entry.item) for entry in batch] if self._key else ()
            try:
                await self._run(batch)
            finally:
                self._busy_keys.difference_update(keys)
        # Here and not when its task is reported done: who submits in between would count on a worker that has left.
        self._workers.discard(cast(asyncio.Task[None], asyncio.current_task()))

    def _take(self) -> list[_Entry[C, R]]:
        """The next batch; what shares a key with running work, or with an earlier item, keeps its place for later."""
        batch: list[_Entry[C, R]] = []
        later: list[_Entry[C, R]] = []
        held: set[Hashable] = set()
        while self._waiting and len(batch) < self._batch_rows_max:
            entry = self._waiting.popleft()
            if entry.answer is not None and entry.answer.done():
                continue  # its submitter was cancelled before the batch began
            if self._key is not None:
                key = self._key(entry.item)
                if key in self._busy_keys or key in held:
                    held.add(key)
                    later.append(entry)
                    continue
                self._busy_keys.add(key)
            batch.append(entry)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _run(self, batch: Sequence[_Entry[C, R]]) -> None:
        metrics.BATCH_ROWS.labels(self.name).observe(len(batch))
        with metrics.BATCH_SECONDS.labels(self.name).time():
            outcomes = await self._outcomes(batch)
        for entry, outcome in zip(batch, outcomes, strict=True):
            self._settle(entry, outcome)

    async def _outcomes(self, batch: Sequence[_Entry[C, R]]) -> Sequence[R | BaseException]:
        try:
            return await self._handled(batch)
        except DockyardError as error:
            return [error] * len(batch)
        except asyncio.CancelledError:
            stopped = InDoubt(f"{self.name} was stopped")
            for entry in batch:
                self._settle(entry, stopped)
            raise
        except Exception as error:  # noqa: BLE001  (the outermost loop of a batch: poison is kept from its neighbours)
            if len(batch) == 1:
                return [error]
            half = len(batch) // 2
            return [*await self._outcomes(batch[:half]), *await self._outcomes(batch[half:])]

    async def _handled(self, batch: Sequence[_Entry[C, R]]) -> Sequence[R | DockyardError]:
        items = [entry.item for entry in batch]
        if is_recording():
            links = [entry.traceparent for entry in batch if entry.traceparent]
            parent = links[0] if links else None
            with span(names.BATCH, traceparent=parent, attributes={names.BATCH_NAME: self.name}, links=links[1:]):
                outcomes = await self._handle(items)
        else:
            outcomes = await self._handle(items)
        assert len(outcomes) == len(items), f"{self.name} answered {len(outcomes)} of {len(items)} items"
        return outcomes

    def _settle(self, entry: _Entry[C, R], outcome: R | BaseException) -> None:
        if entry.answer is None:
            if isinstance(outcome, BaseException) and self._on_lost is not None:
                self._on_lost(entry.item, outcome)
        elif not entry.answer.done():
            if isinstance(outcome, BaseException):
                entry.answer.set_exception(outcome)
            else:
                entry.answer.set_result(outcome)
