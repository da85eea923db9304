"""The logs of an instance: bounded while they are written, read from their end."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dockyard.local.waiting import pause

# Two files of this size a process are kept at most: the present one and the one before.
LOG_BYTES_MAX = 16 * 1024 * 1024
BLOCK_BYTES = 64 * 1024


def bound(directory: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Turns over every log that has become too long.

    Its writer goes on with the same open file, so the content is copied away and the file emptied; lines written in
    between are lost, which a bounded log may do.
    """
    for log in directory.glob("*.log"):
        if log.stat().st_size > bytes_max:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)


def tail(log: Path, lines_max: int) -> list[str]:
    """The last lines of a log."""
    blocks: list[bytes] = []
    newlines = 0
    with log.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0 and newlines <= lines_max:
            step = min(BLOCK_BYTES, position)
            position = file.seek(position - step)
            blocks.append(file.read(step))
            newlines += blocks[-1].count(b"\n")
    return b"".join(reversed(blocks)).decode(errors="replace").splitlines()[-lines_max:] if lines_max else []


class Follower:
    """Yields the lines that are added to a log, also after it was turned over."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = log.stat().st_size
        self._rest = b""

    def added(self) -> Iterator[str]:
        """The whole lines that were written since the last call."""
        size = self._log.stat().st_size
        if size < self._position:
            self._position, self._rest = 0, b""
        with self._log.open("rb") as file:
            file.seek(self._position)
            self._rest += file.read()
            self._position = file.tell()
        *lines, self._rest = self._rest.split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)

    def run(self, write: Callable[[str], object]) -> None:
        """Writes what is added, until interrupted."""
        while True:
            for line in self.added():
                write(line)
            pause()


def shown(line: str, as_json: bool) -> str:
    """A log line for people: `12:00:01.123 INFO message order_id=…`; for programs one JSON object, whoever wrote it."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return msgspec.json.encode({"message": line}).decode() if as_json else line
    if as_json:
        return line
    when, level, message = (str(fields.pop(name, "")) for name in ("ts", "level", "message"))
    exception = fields.pop("exception", "")
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("service", "logger"))
    head = f"{when[11:23]} {level} {message} {rest}".rstrip()
    return f"{head}\n{exception}" if exception else head
