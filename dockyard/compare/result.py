"""The result of a comparison: what `--json` prints. Fields are only ever added under the same `schema`."""

from collections.abc import Mapping
from dataclasses import dataclass

SCHEMA = "dockyard.compare/1"


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity that every order has for itself: how many orders, median, 99th percentile and largest."""

    orders: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What an order cost: everything from the start of a slice until nothing of it moves any more, by its orders.

    `cpu_ms` is user and system time of every process, `cpu_ms_by_process` adds up to it; `load` is the load generator,
    `postgres` and `redis` are whole servers. `writing_transactions`: transaction ids that the server gave out, all
    databases together; one that commits, aborts or is prepared counts once, one that only reads does not count.
    `wal_bytes`: growth of the write-ahead log. `messages`: entries added to Redis streams. `redis_bytes`: in and out of
    Redis, without TCP's headers. `grpc_calls`: calls that the services answered; a batch of commands is one call.
    `loopback_bytes`: everything that the machine's loopback interface carried, each byte once, headers included: HTTP
    from the load, gRPC, HTTP to the card processor, the databases' and Redis' protocols, and whatever else ran then.
    """

    cpu_ms: float
    cpu_ms_by_process: Mapping[str, float]
    writing_transactions: float
    wal_bytes: float
    messages: float
    redis_bytes: float
    grpc_calls: float
    loopback_bytes: float


@dataclass(frozen=True, slots=True)
class Refused:
    """What the customers of orders that shipping refused see on their statements.

    `shows` counts orders by the memos of their lines, in order ("charge, refund"; "nothing"); `kept_minor_units` is
    money that was not given back.
    """

    orders: int
    shows: Mapping[str, int]
    lines_per_order: float
    kept_minor_units: int


@dataclass(frozen=True, slots=True)
class Faults:
    """Orders placed while services were killed. `never_ended`: no end while their customers waited."""

    orders: int
    ended: int
    never_ended: int
    failed: int
    killed: tuple[str, ...]
    seconds: float
    outcomes: Mapping[str, int]
    violations: int
    orders_violated: int
    rules: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that are neither blank, nor comment, nor docstring.

    `own`: what exists for this style alone; `shared`: what it shares with some of the others, but not with all.
    """

    own: int
    shared: int


@dataclass(frozen=True, slots=True)
class Style:
    """One style. Undisturbed, unless under `faults`; orders of the warm-up count nowhere but in `warm_up_violations`.

    `orders_per_s` is ended orders by the time from a slice's first request to the last end in it, added up over the
    slices; `orders_per_s_by_slice` shows how far they differ. `latency_ms` is from the request to the end of the order,
    as its customer sees it (`Prefer: wait`). `stock_kept_ms`: how long an order's stock was held for it (tcc) or locked
    (twophase); 0 for what is taken at once, which locks it for its own transaction only; a prepared transaction that is
    rolled back leaves no record and is left out. `inconsistent_ms`: from the first visible effect of the outcome to the
    last one that makes all services agree; orders for which they never did are counted in `never_consistent`.
    """

    coordination: str
    orders: int
    ended: int
    never_ended: int
    failed: int
    outcomes: Mapping[str, int]
    orders_per_s: float
    orders_per_s_by_slice: tuple[float, ...]
    latency_ms: Spread
    cost_per_order: Cost
    stock_kept_ms: Spread
    inconsistent_ms: Spread
    never_consistent: int
    refused_by_shipping: Refused
    violations: int
    orders_violated: int
    rules: Mapping[str, int]
    warm_up_violations: int
    faults: Faults
    lines_of_code: Code

    @property
    def kept_its_promise(self) -> bool:
        """Every order ended, and the audit found nothing."""
        return not (
            self.never_ended
            or self.failed
            or self.violations
            or self.warm_up_violations
            or self.faults.never_ended
            or self.faults.failed
            or self.faults.violations
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it. `violations_of_nobody` cannot be said to be one style's (a product's totals, for instance)."""

    schema: str
    seed: int
    orders_per_style: int
    customers: int
    rounds: int
    refused_share: float
    seconds: float
    machine: Mapping[str, str | int | float]
    idle_per_s: Mapping[str, float]
    styles: tuple[Style, ...]
    violations_of_nobody: int
