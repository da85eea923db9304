"""How much code a style is: which files, functions and tables exist for it, and how many lines these have.

Counted are lines that are neither blank, nor comment, nor docstring. What every style needs (domain, barrier, outbox,
event store, databases, entrances) is nobody's; what only some need is counted as shared for each of them. Branches
inside a function that serves every style (the saga of a hold or of a charge at once, say) cannot be told apart by name
and are not counted, nor is SQL in migrations.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dockyard.compare.plan import CHOREOGRAPHED, NAIVE, ORCHESTRATED, STYLES, TCC, TWO_PHASE

# Beside this package, whether it is installed or a checkout.
ROOT = Path(__file__).parents[2]

ASKED = (ORCHESTRATED, TCC, TWO_PHASE)
KEPT = (TCC, TWO_PHASE)
CALLED = (ORCHESTRATED, TCC, TWO_PHASE, NAIVE)

PIECES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((ORCHESTRATED,), ("services/order/saga.py::CHECKOUT",)),
    ((ORCHESTRATED, NAIVE), ("services/order/saga.py::_deduct_stock _charge _book_shipment",)),
    (
        (CHOREOGRAPHED,),
        (
            "libs/choreography/events.py",
            "libs/choreography/rounds.py",
            "libs/choreography/rules.py",
            "services/inventory/choreography.py",
            "services/inventory/adapters/choreography.py",
            "services/payment/choreography.py",
            "services/payment/adapters/choreography.py",
            "services/payment/adapters/owed.py",
            "services/payment/following.py",
            "services/shipping/choreography.py",
            "services/shipping/adapters/choreography.py",
            "services/order/choreography.py",
            "services/order/adapters/checkouts.py",
            "services/order/adapters/choreographies.py",
            "services/order/adapters/deadlines.py",
        ),
    ),
    (
        (TCC,),
        ("libs/tcc/transaction.py", "services/order/saga.py::CHECKOUT_TCC _hold_stock _authorise _hold_place"),
    ),
    (
        (TWO_PHASE,),
        (
            "libs/twophase/preparations.py",
            "libs/twophase/prepared.py",
            "libs/twophase/transaction.py",
            "services/order/saga.py::CHECKOUT_TWO_PHASE _prepare_stock _prepare_payment _prepare_shipment",
            "services/inventory/adapters/preparations.py",
            "services/inventory/handlers.py::prepare",
            "services/payment/adapters/preparations.py",
            "services/payment/handlers.py::prepare",
            "services/shipping/adapters/preparations.py",
            "services/shipping/handlers.py::prepare",
        ),
    ),
    ((NAIVE,), ("services/order/adapters/naive.py",)),
    (
        ASKED,
        (
            "libs/saga/calls.py",
            "libs/saga/definition.py",
            "libs/saga/entries.py",
            "libs/saga/executor.py",
            "libs/saga/log.py",
            "libs/saga/machine.py",
            "libs/saga/postgres_log.py",
            "services/order/saga.py::PLACE_ORDER _restock _refund _cancel_booking _reject_order _confirm_order",
        ),
    ),
    (
        KEPT,
        (
            "libs/coordination/inquiry.py",
            "libs/coordination/outcomes.py",
            "libs/coordination/remote.py",
            "libs/runtime/coordinator_rpc.py",
            "services/order/adapters/coordinator.py",
            "services/order/entrypoints/grpc_coordinator.py",
            "services/inventory/entrypoints/holdings.py",
            "services/inventory/handlers.py::Confirm confirmation",
            "services/payment/handlers.py::BeginCapture SettleCapture SettleVoid",
            "services/shipping/entrypoints/holdings.py",
            "services/shipping/handlers.py::Confirm confirmation",
        ),
    ),
    (CALLED, ("services/order/adapters/participants.py",)),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole file, or one top-level name in it; and the styles that need it."""

    path: str
    name: str
    styles: frozenset[str]


def pieces() -> list[Piece]:
    """The table, one row for each file or name."""
    found = []
    for styles, entries in PIECES:
        for entry in entries:
            path, _, listed = entry.partition("::")
            found += [Piece(path, name, frozenset(styles)) for name in listed.split() or [""]]
    return found


def lines_of(style: str, root: Path = ROOT) -> tuple[int, int]:
    """Lines that only this style needs, and lines that it shares with some of the others."""
    counts = [(piece, count(piece, root)) for piece in pieces() if style in piece.styles]
    own = sum(lines for piece, lines in counts if len(piece.styles) == 1)
    return own, sum(lines for _, lines in counts) - own


def missing(root: Path = ROOT) -> list[str]:
    """What the table names and the code does not have: it must be empty."""
    return [f"{piece.path}::{piece.name}".removesuffix("::") for piece in pieces() if not count(piece, root)]


def count(piece: Piece, root: Path = ROOT) -> int:
    """The lines of one piece; 0 when there is no such file or name."""
    path = root / piece.path
    if not path.exists():
        return 0
    source = path.read_text()
    lines = code_lines(source)
    if not piece.name:
        return len(lines)
    return len({line for span in _spans(source, piece.name) for line in span} & lines)


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    return lines - {line for span in _docstrings(ast.parse(source)) for line in span}


def _docstrings(tree: ast.AST) -> Iterator[range]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield _span(first)


def _spans(source: str, name: str) -> Iterator[range]:
    """Where a top-level name is defined, decorators included."""
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found) | ast.ClassDef(name=found):
                names = [found]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=found)):
                names = [found]
            case _:
                names = []
        if name in names:
            yield _span(node)


def _span(node: ast.stmt) -> range:
    decorators = getattr(node, "decorator_list", [])
    return range(min([node.lineno, *(one.lineno for one in decorators)]), (node.end_lineno or node.lineno) + 1)


assert {style for styles, _ in PIECES for style in styles} == set(STYLES)
