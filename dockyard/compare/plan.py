"""Who is measured when: every style places the same orders, in slices that take turns.

A noisy minute of the machine then falls on all styles, and each of them stands in each place of a round equally often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dockyard.load.orders import Coordination
from libs.kernel.errors import Invalid

STYLES = tuple(style.value for style in Coordination)
ORCHESTRATED, CHOREOGRAPHED, TCC, TWO_PHASE, NAIVE = STYLES
# Those that promise something; naive is the control that must fail.
HONEST = frozenset(STYLES) - {NAIVE}

CUSTOMERS = 64
# Several times as many orders as there are customers: else a slice would be little but its first and its last ones.
SLICE_ORDERS = 400
WARM_UP_ORDERS = 128
# Of the orders of a style, so many more are placed while services are killed.
FAULT_SHARE = 0.1
FAULT_ORDERS_MIN, FAULT_ORDERS_MAX = 40, 400
# How long a customer waits for one order. A style that promises an end is believed for long; naive never ends.
PATIENCE_SECONDS, NAIVE_PATIENCE_SECONDS = 90.0, 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison: which styles, how many measured orders of each, drawn from which seed, by how many customers."""

    styles: tuple[str, ...]
    orders: int
    seed: int
    customers: int = CUSTOMERS

    @property
    def warm_up_orders(self) -> int:
        """Orders of each style before anything is measured: connections open, statements are prepared."""
        return min(WARM_UP_ORDERS, self.orders)

    @property
    def fault_orders(self) -> int:
        """Orders of each style that are placed while services are killed."""
        return min(max(int(self.orders * FAULT_SHARE), FAULT_ORDERS_MIN), FAULT_ORDERS_MAX)

    @property
    def rounds(self) -> int:
        """A multiple of the number of styles, so that each stands in each place equally often."""
        turns = max(round(self.orders / (SLICE_ORDERS * len(self.styles))), 1)
        return turns * len(self.styles)


@dataclass(frozen=True, slots=True)
class Slice:
    """One style's turn in a round: so many orders."""

    number: int
    style: str
    orders: int


def parse_styles(text: str) -> tuple[str, ...]:
    """The styles of a comma-separated list, each once, in the order given. Raises Invalid."""
    styles = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles:
        wrong = f"there is no style {unknown[0]!r}" if unknown else "no style is named"
        raise Invalid(f"{wrong}; the styles are {', '.join(STYLES)}")
    return styles


def slices(plan: Plan) -> list[Slice]:
    """Every slice in the order in which they run; a style's slices add up to the plan's orders."""
    sizes = shares(plan.orders, plan.rounds)
    found = []
    for number, size in enumerate(sizes):
        for style in rotated(plan.styles, number):
            if size:
                found.append(Slice(number, style, size))
    return found


def shares(total: int, parts: int) -> list[int]:
    """`total` in so many parts that differ by one at most, the larger ones first."""
    each, more = divmod(total, parts)
    return [each + (number < more) for number in range(parts)]


def rotated(styles: Sequence[str], by: int) -> list[str]:
    """The styles, beginning with another one in every round; every other cycle of rounds runs backwards.

    So no style always comes after the same one.
    """
    cycle, start = divmod(by, len(styles))
    order = list(styles[start:]) + list(styles[:start])
    return order[::-1] if cycle % 2 else order


def patience_seconds(style: str) -> float:
    """How long a customer waits for the end of an order of this style."""
    return PATIENCE_SECONDS if style in HONEST else NAIVE_PATIENCE_SECONDS
