"""The barrier in memory, for simulations; the same conformance suite as PostgreSQL's holds it to the promise."""

from collections.abc import Sequence
from dataclasses import replace

from libs.tcc.barrier import Claim, Entry, Key, Operation, Row, check_batch, do_key, read_claim


class MemoryBarrier:
    """Every call is a transaction of its own."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]:
        check_batch(entries)
        return [self._claim(entry) for entry in entries]

    def _claim(self, entry: Entry) -> Claim:
        do = do_key(entry.key)
        own_before, do_before = self._rows.get(entry.key), self._rows.get(do)
        self._rows.setdefault(entry.key, Row(entry.fingerprint, entry.answer, entry.key.operation))
        if entry.key.operation is Operation.UNDO:
            self._rows.setdefault(do, Row(b"", None, Operation.UNDO))
        return read_claim(entry, own_before is None, do_before is None, own_before, do_before)

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None:
        for key, answer in answers:
            self._rows[key] = replace(self._rows[key], answer=answer)
