"""The comparison as a table for a terminal: a column for each style."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dockyard.compare.plan import HONEST
from dockyard.compare.result import Comparison, Spread, Style

Row = tuple[str, Callable[[Style], str]]


def _shows(style: Style) -> str:
    """What most of them see."""
    return next(iter(style.refused_by_shipping.shows), "–")


MEASURED: Sequence[Row] = (
    ("orders ended", lambda one: f"{one.ended}/{one.orders}"),
    ("orders per second", lambda one: f"{one.orders_per_s:.0f}"),
    ("  slowest to fastest slice", lambda one: _range(one.orders_per_s_by_slice)),
    ("latency p50/p99, ms", lambda one: _spread(one.latency_ms)),
    ("CPU per order, ms", lambda one: f"{one.cost_per_order.cpu_ms:.1f}"),
    ("transactions that write", lambda one: f"{one.cost_per_order.writing_transactions:.2f}"),
    ("write-ahead log, KiB", lambda one: f"{one.cost_per_order.wal_bytes / 1024:.1f}"),
    ("messages", lambda one: f"{one.cost_per_order.messages:.2f}"),
    ("gRPC calls", lambda one: f"{one.cost_per_order.grpc_calls:.2f}"),
    ("Redis in and out, KiB", lambda one: f"{one.cost_per_order.redis_bytes / 1024:.1f}"),
    ("loopback, KiB", lambda one: f"{one.cost_per_order.loopback_bytes / 1024:.1f}"),
)
SEEN: Sequence[Row] = (
    ("stock kept p50/p99, ms", lambda one: _spread(one.stock_kept_ms)),
    ("half done p50/p99, ms", lambda one: _spread(one.inconsistent_ms)),
    ("half done for ever, orders", lambda one: str(one.never_consistent)),
    ("refused: statement shows", _shows),
    ("  money kept", lambda one: f"{one.refused_by_shipping.kept_minor_units / 100:.2f}"),
    ("violations (orders)", lambda one: f"{one.violations} ({one.orders_violated})"),
)
BROKEN: Sequence[Row] = (
    ("orders ended", lambda one: f"{one.faults.ended}/{one.faults.orders}"),
    ("never ended", lambda one: str(one.faults.never_ended)),
    ("kills", lambda one: str(len(one.faults.killed))),
    ("violations (orders)", lambda one: f"{one.faults.violations} ({one.faults.orders_violated})"),
)
CODE: Sequence[Row] = (
    ("of its own", lambda one: str(one.lines_of_code.own)),
    ("shared with some", lambda one: str(one.lines_of_code.shared)),
)


def shown(comparison: Comparison) -> RenderableType:
    """Everything that `--json` says, short."""
    styles = comparison.styles
    title = (
        f"{comparison.orders_per_style} orders a style in {comparison.rounds} turns, {comparison.customers} customers"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for style in styles:
        table.add_column(style.coordination, justify="right", overflow="fold")
    sections = (
        ("undisturbed, costs per order", MEASURED),
        ("CPU by process, ms per order", _processes(styles)),
        ("what others see", SEEN),
        ("while services are killed", BROKEN),
        ("lines of code", CODE),
    )
    for name, rows in sections:
        table.add_section()
        table.add_row(Text(name, "bold"))
        for label, of in rows:
            table.add_row(f"  {label}", *(of(style) for style in styles))
    return Group(table, Text(_machine(comparison.machine)), *_verdicts(comparison))


def _processes(styles: Sequence[Style]) -> Sequence[Row]:
    """CPU by process, the first style's most expensive one first."""
    names = dict.fromkeys(name for style in styles for name in style.cost_per_order.cpu_ms_by_process)
    return [(name, partial(_cpu, name)) for name in names]


def _cpu(process: str, style: Style) -> str:
    return f"{style.cost_per_order.cpu_ms_by_process.get(process, 0.0):.2f}"


def _spread(spread: Spread) -> str:
    return f"{spread.p50:.0f}/{spread.p99:.0f}" if spread.orders else "–"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f}–{max(values):.0f}" if values else "–"


def _machine(machine: Mapping[str, str | int | float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())


def _verdicts(comparison: Comparison) -> list[Text]:
    found = []
    for style in comparison.styles:
        if style.coordination in HONEST and not style.kept_its_promise:
            rules = ", ".join([*style.rules, *style.faults.rules]) or "not every order ended"
            found.append(Text(f"{style.coordination} broke its promise: {rules}", "bold red"))
    if comparison.violations_of_nobody:
        found.append(Text(f"{comparison.violations_of_nobody} violations belong to no order", "bold red"))
    return found or [Text("every style that promises something kept it", "bold green")]
