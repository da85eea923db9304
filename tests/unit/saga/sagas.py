"""Sagas small enough to go through every way they can run."""

from collections.abc import Mapping
from typing import Any

from libs.saga.definition import Command, Kind, MakeCommand, Retry, Step


def command(name: str) -> MakeCommand:
    def make(body: Any, _: Mapping[str, Any]) -> Command:
        return Command("shop", name, body)

    return make


def step(name: str, kind: Kind = Kind.COMPENSATABLE, *, tries: int = 2, undo_tries: int = 2, group: str = "") -> Step:
    undo = command(f"undo-{name}") if kind is Kind.COMPENSATABLE else None
    return Step(name, command(name), undo, kind, Retry(attempts_max=tries), Retry(attempts_max=undo_tries), group=group)


def pivot(name: str, tries: int = 2) -> Step:
    return step(name, Kind.PIVOT, tries=tries)


def retriable(name: str, tries: int = 2) -> Step:
    return step(name, Kind.RETRIABLE, tries=tries)
