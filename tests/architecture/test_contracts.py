"""Every import contract is seen kept on the tree as it is, and broken, it alone, by imports planted against it."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from tests.architecture.planting import (
    CONTRACTS,
    PACKAGES,
    ROOT,
    Import,
    Tree,
    copy_tree,
    external,
    forbidden_imports,
    independent_imports,
    indirect_imports,
    layer_imports,
    layer_modules,
)

SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__init__.py"))
LIBRARIES_UPWARDS = ("kernel", "telemetry", "runtime", "resilience", "messaging", "saga")
# Said here in the architecture's words, not taken from the contracts: a contract that was weakened does not agree.
NEVER: Mapping[str, Sequence[tuple[str, str]]] = {
    "houses": [
        ("proto.planted", "libs.kernel.planted"),
        ("libs.runtime.planted", "services.order.adapters.planted"),
        ("libs.runtime.planted", "dockyard.planted"),
        ("dockyard.planted", "services.order.adapters.planted"),
        ("services.order.adapters.planted", "dockyard.planted"),
    ],
    "library-layers": [
        *((f"libs.{lower}.planted", f"libs.{higher}.planted") for lower, higher in pairwise(LIBRARIES_UPWARDS)),
        ("libs.messaging.planted", "libs.eventsourcing.planted"),
        ("libs.eventsourcing.planted", "libs.tcc.planted"),
        ("libs.tcc.planted", "libs.choreography.planted"),
    ],
    "services-meet-in-contracts": [
        (f"services.{one}.adapters.planted", f"services.{other}.adapters.planted")
        for one, other in permutations(SERVICES, 2)
    ],
    "service-layers": [
        ("services.order.domain", "services.order.adapters.planted"),
        ("services.order.saga", "services.order.adapters.planted"),
        ("services.order.ports", "services.order.entrypoints.planted"),
        ("services.order.handlers", "services.order.adapters.planted"),
        ("services.order.handlers", "services.order.entrypoints.planted"),
        ("services.order.adapters.planted", "services.order.entrypoints.planted"),
        ("services.order.entrypoints.planted", "services.order.adapters.planted"),
        ("services.order.entrypoints.configured", "services.order.config"),
    ],
    "pure-cores": [
        *((f"services.{service}.domain", "asyncio") for service in SERVICES),
        ("services.order.domain", "time"),
        ("services.order.saga", "random"),
        ("libs.kernel.planted", "uuid"),
        ("libs.kernel.planted", "os"),
        ("libs.saga.machine", "socket"),
        ("libs.saga.definition", "opentelemetry"),
        ("libs.tcc.barrier", "sqlalchemy"),
    ],
    "sockets-at-the-edge": [
        ("services.order.handlers", "sqlalchemy"),
        ("services.order.handlers", "grpc"),
        ("services.order.handlers", "fastapi"),
        ("services.order.ports", "redis"),
        ("services.order.ports", "httpx"),
    ],
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return copy_tree(tmp_path)


def names_in(contract_id: str) -> Iterator[str]:
    """Every module expression a contract holds."""
    contract = CONTRACTS[contract_id]
    for field in ("source_modules", "forbidden_modules", "modules", "containers"):
        yield from contract.get(field, [])


def of_type(type_name: str) -> list[str]:
    return sorted(contract_id for contract_id, contract in CONTRACTS.items() if contract["type"] == type_name)


def assert_only(tree: Tree, contract_id: str, planted: list[Import]) -> None:
    """The planted imports break this contract, each of them is reported, and no other contract breaks."""
    assert planted, f"nothing to plant against {contract_id}"
    tree.plant(planted)
    verdict = tree.lint()
    assert verdict.broken == {contract_id}, verdict.report
    unnoticed = [str(import_) for import_ in planted if not verdict.reports(import_)]
    assert not unnoticed, f"{contract_id} does not see {unnoticed}\n{verdict.report}"


def test_the_tree_keeps_every_contract(tree: Tree) -> None:
    verdict = tree.lint()
    assert not verdict.broken, verdict.report


@pytest.mark.parametrize("contract_id", of_type("forbidden"))
def test_a_forbidden_import_breaks_its_contract_alone(tree: Tree, contract_id: str) -> None:
    contract = CONTRACTS[contract_id]
    imports = forbidden_imports if contract.get("allow_indirect_imports") else indirect_imports
    assert_only(tree, contract_id, list(imports(tree, contract)))


@pytest.mark.parametrize("contract_id", of_type("independence"))
def test_an_import_between_the_independent_breaks_its_contract_alone(tree: Tree, contract_id: str) -> None:
    assert_only(tree, contract_id, list(independent_imports(tree, CONTRACTS[contract_id])))


@pytest.mark.parametrize("contract_id", of_type("layers"))
def test_an_import_up_or_across_the_layers_breaks_its_contract_alone(tree: Tree, contract_id: str) -> None:
    planted = list(layer_imports(tree, CONTRACTS[contract_id]))
    # Emptied first: what a layer imports for good reasons must not be reached from below and break a second contract.
    for module in {name for import_ in planted for name in (import_.importer, import_.imported)}:
        tree.write(module)
    assert_only(tree, contract_id, planted)


@pytest.mark.parametrize("contract_id", NEVER)
def test_what_must_never_be_imported_breaks_its_contract_alone(tree: Tree, contract_id: str) -> None:
    assert_only(tree, contract_id, [Import(*pair) for pair in NEVER[contract_id]])


def test_every_contract_has_a_test_that_breaks_it() -> None:
    assert {*of_type("forbidden"), *of_type("independence"), *of_type("layers")} == set(CONTRACTS)


def test_a_module_without_a_layer_is_noticed_in_a_service(tree: Tree) -> None:
    tree.write("services.payment.helpers")
    assert tree.lint().broken == {"service-layers"}


def test_a_library_without_a_layer_is_noticed(tree: Tree) -> None:
    tree.write("libs.common.__init__")
    assert tree.lint().broken == {"library-layers"}


def test_a_new_service_is_held_to_the_layers(tree: Tree) -> None:
    tree.write("services.returns.__init__")
    tree.write("services.returns.handlers")
    tree.write("services.returns.domain", "import services.returns.handlers\n")
    assert tree.lint().broken == {"service-layers"}


@pytest.mark.parametrize("contract_id", sorted(CONTRACTS))
def test_every_module_a_contract_names_exists(tree: Tree, contract_id: str) -> None:
    for name in names_in(contract_id):
        exists = importlib.util.find_spec(name) is not None if external(name) else bool(tree.matching(name))
        assert exists, f"{contract_id} names {name}, which matches nothing"


@pytest.mark.parametrize("contract_id", of_type("layers"))
def test_every_layer_exists_somewhere(tree: Tree, contract_id: str) -> None:
    contract = CONTRACTS[contract_id]
    containers = [module for expression in contract.get("containers", []) for module in tree.matching(expression)]
    for layer in contract["layers"]:
        for name in layer_modules(layer, "*"):
            in_containers = [name.replace("*", container) for container in containers] or [name.removeprefix("*.")]
            assert any(tree.has(module) for module in in_containers), f"{contract_id}: no {name} anywhere"


def test_no_source_file_hides_from_the_contracts() -> None:
    """A directory without `__init__.py` is not a package, and the linter never looks into it."""
    scripts = {"versions", "alembic_env"}  # Alembic loads these by path
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            if not scripts & set(source.parent.parts):
                assert (source.parent / "__init__.py").is_file(), f"{source.relative_to(ROOT)} is in no package"
