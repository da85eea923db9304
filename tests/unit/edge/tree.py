"""The error tree, and what of it a table forgets."""

from collections.abc import Iterator, Mapping
from typing import Any

# What is served. The workbench and the tests have errors of their own that no caller ever hears of.
SERVED = frozenset({"libs", "services"})


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    """The class and everything derived from it, as far as it is imported."""
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def unmapped(root: type[Exception], table: Mapping[Any, object]) -> set[type[Exception]]:
    """Served errors that the table knows neither themselves nor by what they derive from, the root apart."""
    served = (kind for kind in tree(root) if kind.__module__.partition(".")[0] in SERVED)
    return {
        kind for kind in served if not any(base in table for base in kind.__mro__ if base is not root or kind is root)
    }
