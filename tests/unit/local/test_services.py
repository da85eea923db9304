"""What services are started with."""

import pytest

from dockyard.local.problems import EnvironmentProblem
from dockyard.local.services import NAMES, SERVICES, at_offset, check_not_set, settings

DATABASE = "postgresql://dockyard_order:secret@127.0.0.1:5432/dockyard_order"
REDIS = "redis://:secret@127.0.0.1:6379/0"


def test_every_service_has_a_schema_and_no_port_is_used_twice() -> None:
    assert all((service.migrations / "versions").is_dir() for service in SERVICES)
    ports = [port for service in SERVICES for port in service.ports]
    assert len(ports) == len(set(ports)) == 9


def test_the_order_service_learns_where_the_others_are() -> None:
    assert settings("order", at_offset(100), DATABASE, REDIS, "") == {
        "DOCKYARD_ORDER_DATABASE_URL": DATABASE,
        "DOCKYARD_ORDER_REDIS_URL": REDIS,
        "DOCKYARD_ORDER_HTTP_PORT": "8201",
        "DOCKYARD_ORDER_GRPC_PORT": "9201",
        "DOCKYARD_ORDER_INVENTORY_ADDRESS": "127.0.0.1:9203",
        "DOCKYARD_ORDER_PAYMENT_ADDRESS": "127.0.0.1:9202",
        "DOCKYARD_ORDER_SHIPPING_ADDRESS": "127.0.0.1:9204",
    }


def test_the_card_processor_knows_neither_grpc_nor_messages() -> None:
    assert settings("psp", at_offset(0), DATABASE, REDIS, "") == {
        "DOCKYARD_PSP_DATABASE_URL": DATABASE,
        "DOCKYARD_PSP_HTTP_PORT": "8109",
    }


@pytest.mark.parametrize("name", NAMES)
def test_traces_go_where_the_user_wants_them(name: str) -> None:
    given = settings(name, at_offset(0), DATABASE, REDIS, "http://127.0.0.1:4317")
    assert given[f"DOCKYARD_{name.upper()}_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"


def test_a_variable_that_the_platform_decides_is_not_overridden_silently() -> None:
    decided = settings("order", at_offset(0), DATABASE, REDIS, "")
    with pytest.raises(EnvironmentProblem, match="DOCKYARD_ORDER_HTTP_PORT is decided by `dockyard up` itself"):
        check_not_set(decided, {"DOCKYARD_ORDER_HTTP_PORT": "80"})


def test_other_settings_of_a_service_are_the_users() -> None:
    decided = settings("order", at_offset(0), DATABASE, REDIS, "")
    check_not_set(decided, {"DOCKYARD_ORDER_LOG_LEVEL": "DEBUG", "DOCKYARD_ORDER_OTLP_ENDPOINT": "http://elsewhere"})
