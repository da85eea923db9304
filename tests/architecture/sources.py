"""What the repository holds, read as text and as syntax trees."""

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CODE: Final = ("libs", "services", "dockyard", "proto", "tests")
# Not ours to judge: what tools write, and what is generated from the contracts.
SKIPPED: Final = frozenset({".git", ".venv", "__pycache__", ".dockyard", ".hypothesis", "dist", "node_modules"})
GENERATED: Final = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@cache
def files() -> tuple[Path, ...]:
    """Every file that is committed or could be, sorted."""
    found: list[Path] = []
    for directory, subdirectories, names in os.walk(ROOT):
        subdirectories[:] = [name for name in subdirectories if name not in SKIPPED and not name.endswith("_cache")]
        found += [Path(directory, name) for name in names if not name.endswith(".pyc")]
    return tuple(sorted(found))


def text_files() -> Iterator[tuple[str, str]]:
    """(path from the root, text) of every file that is text and written by people."""
    for path in files():
        if not path.name.endswith(GENERATED):
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    """(path from the root, syntax tree) of every Python file written by people, in these packages or in all."""
    for path in files():
        relative = path.relative_to(ROOT)
        if path.suffix == ".py" and relative.parts[0] in (packages or CODE) and not path.name.endswith(GENERATED):
            yield str(relative), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def called(call: ast.Call) -> str:
    """The last name of what is called: `sleep` for `asyncio.sleep(1)`."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


@cache
def defined(path: Path) -> frozenset[str]:
    """Every name a module gives to something: functions, classes, `Class.method`, constants, fields."""
    return frozenset(_names(parsed(path), ""))


def _names(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _names(child, f"{prefix}{name}.")
            case ast.Assign(targets=targets):
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
