"""Breaks import contracts on purpose: a copy of the tree, imports planted in it, and what the linter says then."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from importlinter.api import read_configuration

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("libs", "services", "dockyard", "proto")
CONTRACTS: Final[Mapping[str, Mapping[str, Any]]] = {
    contract["id"]: contract for contract in read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
}
# Where an import is planted when a contract speaks of a whole house: a place no other contract says anything about.
PLOTS: Final = {"libs": "libs.runtime", "services": "services.psp.adapters"}
# A library through which a pure module may reach something without breaking another contract.
BETWEEN: Final = {"redis": "libs.messaging"}
VERDICT = re.compile(r"^(?P<name>.+?) (?P<verdict>KEPT|BROKEN)(?: |$)", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """`importer` imports `imported`, both full module names."""

    importer: str
    imported: str

    def __str__(self) -> str:
        return f"{self.importer} -> {self.imported}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ids of the contracts the linter found broken, and all it said."""

    broken: frozenset[str]
    report: str

    def reports(self, planted: Import) -> bool:
        """This very import is named as a violation."""
        return re.search(rf"{re.escape(str(planted))} \(l\.", self.report) is not None


@dataclass(frozen=True, slots=True)
class Tree:
    """A copy of the sources and of the contracts."""

    path: Path

    def lint(self) -> Verdict:
        """What the import linter says of this copy as it stands."""
        completed = subprocess.run(
            [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
            cwd=self.path,
            env={**os.environ, "COLUMNS": "1000", "NO_COLOR": "1", "PYTHONPATH": str(self.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        verdicts = {match["name"].strip(): match["verdict"] for match in VERDICT.finditer(completed.stdout)}
        named = {contract["name"]: id_ for id_, contract in CONTRACTS.items()}
        assert set(verdicts) == set(named), completed.stdout + completed.stderr
        broken = frozenset(named[name] for name, verdict in verdicts.items() if verdict == "BROKEN")
        assert (completed.returncode != 0) == bool(broken), completed.stdout
        return Verdict(broken, completed.stdout)

    def write(self, module: str, text: str = "") -> None:
        """Makes the module hold just this text."""
        path = self.path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def plant(self, imports: Iterable[Import]) -> None:
        """Adds the imports; the last line of each importer."""
        for planted in imports:
            path = self.path.joinpath(*planted.importer.split(".")).with_suffix(".py")
            text = path.read_text() if path.exists() else ""
            path.write_text(f"{text}\nimport {planted.imported}\n")
            if planted.imported.endswith(".planted") and not self.has(planted.imported):
                self.write(planted.imported)

    def has(self, module: str) -> bool:
        path = self.path.joinpath(*module.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()

    def children(self, package: str) -> list[str]:
        """The packages and modules directly inside a package."""
        path = self.path.joinpath(*package.split("."))
        names = {entry.stem for entry in path.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()}
        return sorted(f"{package}.{name}" for name in names - {"__init__"})

    def matching(self, expression: str) -> list[str]:
        """The modules a contract's expression names; `*` stands for one part of a name."""
        found = [""]
        for part in expression.split("."):
            if part != "*":
                found = [f"{package}.{part}".lstrip(".") for package in found]
            else:
                found = [child for package in found for child in self.children(package)]
        return [module for module in found if self.has(module) and fnmatchcase(module, expression)]

    def plot(self, module: str) -> str:
        """The module in which to plant an import of `module`: itself, or a new leaf when it is a package."""
        package = PLOTS.get(module, module)
        if self.has(f"{package}.adapters"):
            package = f"{package}.adapters"
        return f"{package}.planted" if self.path.joinpath(*package.split(".")).is_dir() else package


def copy_tree(to: Path) -> Tree:
    """A copy of every source file the contracts speak of."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyi", "*.proto"))
    shutil.copy(ROOT / "pyproject.toml", to)
    return Tree(to)


def external(module: str) -> bool:
    return module.partition(".")[0] not in PACKAGES


def forbidden_imports(tree: Tree, contract: Mapping[str, Any]) -> Iterator[Import]:
    """Every source imports the first forbidden module, and one source imports all of them."""
    sources = [module for expression in contract["source_modules"] for module in tree.matching(expression)]
    forbidden = contract["forbidden_modules"]
    for source in sources:
        yield Import(tree.plot(source), _target(tree, forbidden[0]))
    for module in forbidden[1:]:
        yield Import(tree.plot(sources[0]), _target(tree, module))


def indirect_imports(tree: Tree, contract: Mapping[str, Any]) -> Iterator[Import]:
    """Every source imports the first forbidden module, and a domain reaches all others through a library."""
    sources = [module for expression in contract["source_modules"] for module in tree.matching(expression)]
    first, *others = contract["forbidden_modules"]
    for source in sources:
        yield Import(tree.plot(source), first)
    through = {f"{BETWEEN.get(module, 'libs.runtime')}.planted" for module in others}
    for library in sorted(through):
        yield Import("services.order.domain", library)
    for module in others:
        yield Import(f"{BETWEEN.get(module, 'libs.runtime')}.planted", _target(tree, module))


def independent_imports(tree: Tree, contract: Mapping[str, Any]) -> Iterator[Import]:
    """Each module imports the next one, in a ring."""
    modules = [module for expression in contract["modules"] for module in tree.matching(expression)]
    for module, next_module in zip(modules, [*modules[1:], modules[0]], strict=True):
        yield Import(tree.plot(module), tree.plot(next_module))


def layer_imports(tree: Tree, contract: Mapping[str, Any]) -> Iterator[Import]:
    """Each layer imports every layer above it and every sibling beside it."""
    containers = [module for expression in contract.get("containers", [""]) for module in tree.matching(expression)]
    for container in containers or [""]:
        above: list[str] = []
        for layer in contract["layers"]:
            siblings = [name for name in layer_modules(layer, container) if tree.has(name)]
            for module in siblings:
                beside = [name for name in siblings if name != module]
                yield from (Import(tree.plot(module), tree.plot(name)) for name in [*above, *beside])
            above += siblings


def layer_modules(layer: str, container: str) -> list[str]:
    """The modules of one line of a layers contract: `(entrypoints) | (adapters)` has two."""
    names = (name.strip(" ()") for name in layer.split("|"))
    return [f"{container}.{name}".lstrip(".") for name in names]


def _target(tree: Tree, module: str) -> str:
    return module if external(module) else tree.plot(module)
