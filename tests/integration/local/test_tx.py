"""`dockyard tx` as people and programs run it, against a real order service's entrance."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tests.conftest import MakeDatabase
from tests.integration.local.test_commands import environ
from tests.integration.order.bureau import MIGRATIONS
from tests.integration.order.floor import AT_THE_REFUND, Floor, open_floor, serving_rest

COMMAND_SECONDS = 60
SAID = ("--by", "olga", "--why", "the bank was down")


class Console:
    """A command line beside the service."""

    def __init__(self, floor: Floor, url: str) -> None:
        self.floor = floor
        self._environ = environ(DOCKYARD_ORDER_URL=url, COLUMNS="200")

    async def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "dockyard", "tx", *arguments],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    async def answer(self, *arguments: str) -> dict[str, Any]:
        done = await self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    async def complaint(self, code: int, *arguments: str) -> str:
        done = await self.run(*arguments, "--json")
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        return done.stderr.strip()


@pytest_asyncio.fixture
async def console(make_database: MakeDatabase) -> AsyncIterator[Console]:
    async with open_floor(await make_database("tx", MIGRATIONS)) as floor, serving_rest(floor) as client:
        yield Console(floor, str(client.base_url).rstrip("/"))


async def test_an_operator_finds_what_is_parked_and_helps_it(console: Console) -> None:
    for order_id in ("o1", "o2", "o3"):
        await console.floor.park(order_id, *AT_THE_REFUND)
    first = await console.answer("list", "--state", "parked", "--limit", "2")
    assert [one["transaction_id"] for one in first["transactions"]] == ["o1", "o2"]
    last = await console.answer("list", "--after", first["next_page_token"])
    assert [one["transaction_id"] for one in last["transactions"]] == ["o3"]
    skipped = await console.answer("skip", "o1", *SAID, "--proof", "bank statement 7")
    assert (skipped["action"]["step"], skipped["transaction"]["status"]) == ("charge", "undoing")
    retried = await console.answer("retry", "o2", *SAID, "--key", "k1")
    again = await console.answer("retry", "o2", *SAID, "--key", "k1")
    assert again["action"] == retried["action"]
    shown = await console.answer("show", "o1")
    assert [one["verb"] for one in shown["actions"]] == ["skip"]
    done = await console.answer("actions", "--limit", "1")
    assert (done["actions"][0]["transaction_id"], bool(done["next_page_token"])) == ("o2", True)


async def test_what_is_refused_is_said_in_the_services_own_words(console: Console) -> None:
    await console.floor.park("o1", *AT_THE_REFUND)
    assert (await console.complaint(1, "end", "o1", *SAID)).startswith(
        "still-owed: this may still be owed: undo of charge, undo of deduct-stock"
    )
    assert "already-going-back" in await console.complaint(1, "compensate", "o1", *SAID)
    assert "not-found" in await console.complaint(1, "show", "o404")
    assert "--why" in await console.complaint(2, "retry", "o1", "--by", "olga")
    assert "--proof" in await console.complaint(2, "skip", "o1", *SAID)
    assert [one.verb for one in await console.floor.actions()] == ["compensate", "end"]


async def test_people_are_shown_tables(console: Console) -> None:
    await console.floor.park("o1", *AT_THE_REFUND)
    listed = (await console.run("list")).stdout
    assert "undo of charge failed 60 times" in listed
    assert "charge, deduct-stock" in listed
    retried = (await console.run("retry", "o1", *SAID)).stdout
    assert "the bank was down" in retried
    assert "resumed" in retried
    assert "waits for" in (await console.run("show", "o1")).stdout
    assert "olga" in (await console.run("actions")).stdout
