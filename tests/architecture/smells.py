"""Reports what is longer than the house likes: files, functions, parameter lists. A smell test, so it fails nothing."""

import ast
from collections.abc import Iterator

from tests.architecture.sources import ROOT, modules

FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 40
PARAMETERS_MAX = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


def smells() -> Iterator[str]:
    """One line for each."""
    for path, tree in modules():
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES_MAX:
            yield f"{path}: {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield from function_smells(path, node)


def function_smells(path: str, function: Function) -> Iterator[str]:
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    parameters = len([*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs])
    if function.args.args and function.args.args[0].arg in {"self", "cls"}:
        parameters -= 1
    if length > FUNCTION_LINES_MAX:
        yield f"{path}:{function.lineno}: {function.name} has {length} lines"
    if parameters > PARAMETERS_MAX:
        yield f"{path}:{function.lineno}: {function.name} takes {parameters} parameters"


if __name__ == "__main__":
    for smell in smells():
        print(smell)
