"""What the linters cannot say about the code."""

import ast
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.architecture.smells import smells
from tests.architecture.sources import CODE, ROOT, called, files, modules

NAMES_FILE = "libs/telemetry/names.py"
# First arguments of these are names that dashboards, alerts and tests rely on.
NAMING_CALLS = frozenset({"span", "start_span", "start_as_current_span", "set_attribute"})
NAMING_CLASSES = frozenset({"Counter", "Gauge", "Histogram", "Summary"})

SUPPRESSION = re.compile(
    r"# *(?:noqa|type: *ignore)\b(?P<rules>: *[A-Z0-9, ]+|\[[\w, -]+\])?(?P<reason> *[#(–—:-] *\w)?"
)


def literal_telemetry_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Span, attribute and metric names written where they are used."""
    metrics = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = called(node)
            if isinstance(node.args[0].value, str) and (
                name in NAMING_CALLS or (name in NAMING_CLASSES and name in metrics)
            ):
                yield node.lineno, node.args[0].value


def sleeps_outside_loops(node: ast.AST, looping: bool = False) -> Iterator[int]:
    """Lines that wait for luck. Inside a loop it is polling: the loop ends when what it waits for is there."""
    if isinstance(node, ast.Call) and called(node) == "sleep" and not looping:
        zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if not zero:
            yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from sleeps_outside_loops(child, looping or isinstance(node, ast.While | ast.For | ast.AsyncFor))


def test_package_inits_are_empty() -> None:
    inits = [path for path in files() if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in CODE]
    assert inits
    assert [str(path.relative_to(ROOT)) for path in inits if path.read_text().strip()] == []


def test_telemetry_names_live_in_one_file() -> None:
    found = [
        f"{path}:{line}: {name!r}"
        for path, tree in modules("libs", "services", "dockyard")
        if path != NAMES_FILE
        for line, name in literal_telemetry_names(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'with span("place-order"): pass',
        'tracer.start_as_current_span("charge")',
        'from prometheus_client import Counter\nCounter("orders_total", "Orders.")',
    ],
)
def test_a_telemetry_name_written_where_it_is_used_is_found(source: str) -> None:
    assert list(literal_telemetry_names(ast.parse(source)))


def test_counting_letters_is_not_telemetry() -> None:
    source = 'from collections import deque\nimport collections\ncollections.Counter("abc")'
    assert not list(literal_telemetry_names(ast.parse(source)))


def test_no_test_waits_for_luck() -> None:
    found = [f"{path}:{line}" for path, tree in modules("tests") for line in sleeps_outside_loops(tree)]
    assert found == []


def test_a_test_that_waits_for_luck_is_found() -> None:
    assert list(sleeps_outside_loops(ast.parse("async def test():\n    await asyncio.sleep(0.1)")))
    assert not list(sleeps_outside_loops(ast.parse("while not ready():\n    await asyncio.sleep(0.1)")))
    assert not list(sleeps_outside_loops(ast.parse("await asyncio.sleep(0)")))


def silent_suppressions(lines: Sequence[str]) -> Iterator[int]:
    """Numbers of the lines that silence a rule without a reason: beside it, above it, or earlier in the file."""
    explained: set[str] = set()
    comment_above = False
    for number, line in enumerate(lines, start=1):
        suppression = SUPPRESSION.search(line)
        if suppression is None:
            comment_above = line.strip().startswith("#")
            continue
        rules = set(re.findall(r"[A-Z]+[0-9]+|[a-z]+(?:-[a-z]+)+", suppression["rules"] or ""))
        if comment_above or suppression["reason"]:
            explained |= rules
        elif not rules or not rules <= explained:
            yield number


def test_suppressions_say_why() -> None:
    silent = [
        f"{path}:{number}"
        for path, _ in modules("libs", "services", "dockyard")
        for number in silent_suppressions((ROOT / path).read_text().splitlines())
    ]
    assert silent == []


def test_a_suppression_without_a_reason_is_found() -> None:
    assert list(silent_suppressions(["import x  # noqa: PLC0415"])) == [1]
    assert list(silent_suppressions(["x()  # noqa"])) == [1]
    assert list(silent_suppressions(["x()  # type: ignore[no-untyped-call]"])) == [1]
    assert list(silent_suppressions(["x()  # noqa: S101  (why)", "y()  # noqa: S102"])) == [2]
    assert not list(silent_suppressions(["import x  # noqa: PLC0415  (a third of a second)"]))
    assert not list(silent_suppressions(["# Slow.", "import x  # noqa: PLC0415", "", "import y  # noqa: PLC0415"]))


def test_the_smell_report_works() -> None:
    assert all(re.match(r"\S+\.py(:\d+)?: ", smell) for smell in smells())
