"""Results to show and to draw, made up."""

from dataclasses import replace

from dockyard.compare.plan import NAIVE, STYLES
from dockyard.compare.result import SCHEMA, Code, Comparison, Cost, Faults, Refused, Spread, Style

PROCESSES = ("order", "inventory", "payment", "shipping", "psp", "postgres", "redis", "load")


def style(name: str, number: int = 1) -> Style:
    cost = Cost(8.0 * number, dict.fromkeys(PROCESSES, 1.0 * number), 3.5, 9000, 4.0, 6000, 1.5, 20_000)
    undisturbed = Style(
        coordination=name,
        orders=2000,
        ended=2000,
        never_ended=0,
        failed=0,
        outcomes={"confirmed": 1800, "rejected: zone-not-served": 200},
        orders_per_s=200.0 / number,
        orders_per_s_by_slice=(180.0 / number, 220.0 / number),
        latency_ms=Spread(2000, 300.0 * number, 700.0 * number, 900.0 * number),
        cost_per_order=cost,
        stock_kept_ms=Spread(2000, 50.0 * (number - 1), 90.0 * (number - 1), 100.0 * (number - 1)),
        inconsistent_ms=Spread(2000, 120.0, 300.0, 400.0),
        never_consistent=0,
        refused_by_shipping=Refused(200, {"charge, refund": 200}, 2.0, 0),
        violations=0,
        orders_violated=0,
        rules={},
        warm_up_violations=0,
        faults=Faults(200, 200, 0, 0, ("payment", "order"), 9.0, {"confirmed": 200}, 0, 0, {}),
        lines_of_code=Code(100, 1000),
    )
    return undisturbed if name != NAIVE else failing(undisturbed)


def failing(one: Style) -> Style:
    """The same, with money kept."""
    faults = replace(
        one.faults, ended=150, never_ended=50, violations=60, orders_violated=55, rules={"G1 abandoned": 60}
    )
    return replace(
        one,
        never_consistent=200,
        refused_by_shipping=Refused(200, {"charge": 200}, 1.0, 123_456),
        violations=400,
        orders_violated=200,
        rules={"G4 money-kept": 200, "G4 stock-kept": 200},
        faults=faults,
    )


def comparison(*styles: Style) -> Comparison:
    return Comparison(
        schema=SCHEMA,
        seed=1,
        orders_per_style=2000,
        customers=64,
        rounds=5,
        refused_share=0.1,
        seconds=200.0,
        machine={"cpu": "Slow 2000", "cores": 2, "postgres": "18.1", "load_average_at_start": 0.5},
        idle_per_s={"cpu_ms": 20.0},
        styles=styles or tuple(style(name, number) for number, name in enumerate(STYLES, 1)),
        violations_of_nobody=0,
    )
