"""What the platform has used so far: read before and after a slice, the difference is what its orders cost.

Every counter is exact at the moment it is read. (PostgreSQL's own count of commits is not: a backend hands it in up to
ten seconds later. So transactions are counted by the ids that the server gave them.)
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from dockyard.load.bench import Target
from dockyard.load.cpu import tree_seconds
from dockyard.load.http import Connection, get
from libs.kernel.errors import Unavailable
from libs.telemetry import names

CONNECT_SECONDS = 10.0
METRICS_SECONDS = 10.0
NET_DEV = Path("/proc/net/dev")
LOAD = "load"
# Nobody else's calls: the health checks of the platform itself are not an order's.
NOT_AN_ORDERS = ("Health", "Reflection")

# The next transaction id: the server gives one to every transaction that writes, in whatever database, also to a
# prepared one. And how far the write-ahead log has got.
SERVER = """
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint
"""


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything counted since the platform started, or the difference of two such readings."""

    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    transactions: int = 0
    wal_bytes: int = 0
    messages: int = 0
    redis_bytes: int = 0
    grpc_calls: int = 0
    loopback_bytes: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return self._with(other, 1)

    def __sub__(self, earlier: "Counters") -> "Counters":
        return self._with(earlier, -1)

    def _with(self, other: "Counters", sign: int) -> "Counters":
        processes = dict.fromkeys([*self.cpu_seconds, *other.cpu_seconds])
        return Counters(
            {name: self.cpu_seconds.get(name, 0.0) + sign * other.cpu_seconds.get(name, 0.0) for name in processes},
            self.transactions + sign * other.transactions,
            self.wal_bytes + sign * other.wal_bytes,
            self.messages + sign * other.messages,
            self.redis_bytes + sign * other.redis_bytes,
            self.grpc_calls + sign * other.grpc_calls,
            self.loopback_bytes + sign * other.loopback_bytes,
        )


class Meter:
    """Reads the counters of a platform; keeps a connection to each server open meanwhile."""

    def __init__(self, target: Target, redis_url: str) -> None:
        self._target = target
        self._redis = Redis.from_url(redis_url)
        self._database: Any = None

    async def __aenter__(self) -> Self:
        url = self._target.database_urls["order"]
        self._database = await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=CONNECT_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._redis.aclose()
        await self._database.close()

    async def postgres_version(self) -> str:
        return str(await self._database.fetchval("SHOW server_version"))

    async def redis_version(self) -> str:
        return str((await self._redis.info("server"))["redis_version"])

    async def read(self) -> Counters:
        """All of them now."""
        transactions, wal_bytes = await self._database.fetchrow(SERVER)
        commands = await self._redis.info("commandstats")
        stats = await self._redis.info("stats")
        calls = [await self._grpc_calls(name) for name in self._target.addresses if name != "psp"]
        cpu = tree_seconds(self._target.pids.values())
        return Counters(
            cpu_seconds={name: cpu[pid] for name, pid in self._target.pids.items()} | {LOAD: time.process_time()},
            transactions=transactions,
            wal_bytes=wal_bytes,
            messages=int(commands.get("cmdstat_xadd", {}).get("calls", 0)),
            redis_bytes=int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"]),
            grpc_calls=sum(calls),
            loopback_bytes=carried_now(),
        )

    async def _grpc_calls(self, service: str) -> int:
        host, port = self._target.addresses[service]
        connection = Connection(host, port)
        try:
            answer = await connection.send(get(host, "/metrics"), METRICS_SECONDS)
        finally:
            connection.close()
        if answer.status != 200:
            raise Unavailable(f"the metrics of {service} cannot be read: HTTP {answer.status}")
        return grpc_calls(answer.body.decode())


def grpc_calls(metrics: str) -> int:
    """The gRPC calls that a service has answered, from its metrics; a batch of commands is one call."""
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == f"{names.METRIC_GRPC_CALLS}_total"
            and not any(word in sample.labels.get("method", "") for word in NOT_AN_ORDERS)
        )
    )


def carried_now() -> int:
    """What the loopback interface has carried so far; 0 where the kernel does not say. Reads no disk."""
    return loopback_bytes(NET_DEV.read_text()) if NET_DEV.exists() else 0


def loopback_bytes(net_dev: str) -> int:
    """What the loopback interface has carried, headers included (proc_net(5)); each byte is counted once."""
    for line in net_dev.splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    return 0
