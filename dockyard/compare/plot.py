"""The comparison as one picture: throughput, latency, CPU, and what others see meanwhile."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dockyard.compare.result import Comparison, Style

INCHES = (11.0, 7.5)
DOTS_PER_INCH = 130
LATENCY_MS_MIN = 10.0
# Okabe and Ito's colours: told apart by everybody, and in grey.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999"
)  # fmt: skip
PROCESSES = {
    "order": BLUE,
    "inventory": GREEN,
    "payment": ORANGE,
    "shipping": PURPLE,
    "psp": YELLOW,
    "postgres": SKY,
    "redis": RED,
    "load": GREY,
}


def draw(comparison: Comparison, path: Path) -> None:
    """Writes the picture, on white so that it can be read wherever it is shown."""
    figure = Figure(figsize=INCHES, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    ((throughput, latency), (cpu, seen)) = figure.subplots(2, 2)
    styles = comparison.styles
    _throughput(throughput, styles)
    _latency(latency, styles)
    _cpu(cpu, styles)
    _seen(seen, styles)
    for axes in (throughput, latency, cpu, seen):
        axes.set_xticks(range(len(styles)), [style.coordination for style in styles], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    machine = comparison.machine
    figure.suptitle(
        f"One checkout, {len(styles)} styles: {comparison.orders_per_style} orders each, "
        f"{comparison.customers} customers, {machine.get('cores', '?')} cores ({machine.get('cpu', 'unknown')})",
        fontsize=10,
    )
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")


def _throughput(axes: Axes, styles: Sequence[Style]) -> None:
    """A bar for the whole, a dot for each slice."""
    axes.bar(range(len(styles)), [style.orders_per_s for style in styles], color=SKY)
    for number, style in enumerate(styles):
        slices = style.orders_per_s_by_slice
        axes.scatter([number + 0.25] * len(slices), slices, color=BLUE, s=10, zorder=3)
        axes.text(number, style.orders_per_s, f"{style.orders_per_s:.0f}", ha="center", va="bottom", fontsize=9)
    axes.set_title("orders per second (dots: slices)", fontsize=10)


def _latency(axes: Axes, styles: Sequence[Style]) -> None:
    _pairs(axes, [style.latency_ms.p50 for style in styles], [style.latency_ms.p99 for style in styles])
    axes.set_title("latency to the order's end, ms", fontsize=10)
    axes.set_yscale("log")
    axes.set_ylim(bottom=LATENCY_MS_MIN)
    axes.legend(["p50", "p99"], fontsize=8, frameon=False)


def _cpu(axes: Axes, styles: Sequence[Style]) -> None:
    bottom = [0.0] * len(styles)
    for name, colour in PROCESSES.items():
        heights = [style.cost_per_order.cpu_ms_by_process.get(name, 0.0) for style in styles]
        axes.bar(range(len(styles)), heights, bottom=bottom, color=colour, label=name)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    for number, total in enumerate(bottom):
        axes.text(number, total, f"{total:.1f}", ha="center", va="bottom", fontsize=8)
    axes.set_title("CPU per order by process, ms", fontsize=10)
    axes.set_ylim(0, max(bottom, default=0.0) * 1.3 or 1.0)
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="upper center")


def _seen(axes: Axes, styles: Sequence[Style]) -> None:
    _pairs(axes, [style.stock_kept_ms.p50 for style in styles], [style.inconsistent_ms.p50 for style in styles])
    for number, style in enumerate(styles):
        if style.never_consistent:
            axes.annotate(
                f"{style.never_consistent} for ever",
                (number + 0.2, style.inconsistent_ms.p50),
                xytext=(0, 14),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=RED,
            )
    axes.margins(y=0.2)
    axes.set_title("stock kept from others, and seen half done: p50, ms", fontsize=10)
    axes.legend(["stock kept", "half done"], fontsize=8, frameon=False)


def _pairs(axes: Axes, left: Sequence[float], right: Sequence[float]) -> None:
    for shift, values, colour in ((-0.2, left, SKY), (0.2, right, ORANGE)):
        bars = axes.bar([number + shift for number in range(len(values))], values, width=0.38, color=colour)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
