"""The fixtures' promises."""

import os
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_client

from tests.conftest import MakeDatabase

ORDER_MIGRATIONS = Path("services/order/migrations").resolve()


async def test_a_fresh_database_belongs_to_an_ordinary_role(make_database: MakeDatabase) -> None:
    connection = await asyncpg.connect(await make_database("mine"))
    try:
        assert await connection.fetchval("SELECT NOT rolsuper FROM pg_roles WHERE rolname = current_user")
        await connection.execute("CREATE TABLE things (name text)")
    finally:
        await connection.close()


@pytest.mark.skipif("DOCKYARD_POSTGRES_URL" in os.environ, reason="a given server is as it is")
async def test_our_server_is_as_durable_as_in_production_and_can_prepare_transactions(postgres_server: str) -> None:
    connection = await asyncpg.connect(postgres_server)
    settings = ("fsync", "synchronous_commit", "full_page_writes", "max_prepared_transactions", "max_connections")
    assert [await connection.fetchval(f"SHOW {name}") for name in settings] == ["on", "on", "on", "256", "200"]
    await connection.close()


async def test_two_databases_of_a_test_do_not_meet(make_database: MakeDatabase) -> None:
    one, other = await make_database("one"), await make_database("other")
    connection = await asyncpg.connect(one)
    await connection.execute("CREATE TABLE things (name text)")
    await connection.close()
    connection = await asyncpg.connect(other)
    assert await connection.fetchval("SELECT to_regclass('things')") is None
    await connection.close()


async def test_a_migrated_database_is_a_copy_with_the_schema(make_database: MakeDatabase) -> None:
    for _ in range(2):
        connection = await asyncpg.connect(await make_database("order", ORDER_MIGRATIONS))
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        await connection.close()


async def test_a_clean_redis_is_empty(clean_redis: str) -> None:
    client = redis_client.Redis.from_url(clean_redis)
    assert await client.dbsize() == 0
    await client.aclose()
