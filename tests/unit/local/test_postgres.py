"""What a PostgreSQL server says about itself in its pid file."""

from pathlib import Path

import pytest

from dockyard.local.postgres import PostgresPlan, accepts_connections, data_major

PID_FILE = "{pid}\n{data}\n1700000000\n8110\n\n127.0.0.1\n  1234567         3\n{status}\n"


@pytest.mark.parametrize(
    ("pid", "status", "accepts"),
    [(17, "ready   ", True), (17, "starting", False), (17, "stopping", False), (16, "ready   ", False)],
)
def test_a_server_accepts_connections_when_it_says_so_itself(
    tmp_path: Path, pid: int, status: str, *, accepts: bool
) -> None:
    """A file that a killed server left says ready too, but with another pid."""
    (tmp_path / "postmaster.pid").write_text(PID_FILE.format(pid=pid, data=tmp_path, status=status))
    assert accepts_connections(tmp_path, 17) is accepts


@pytest.mark.parametrize("content", ["", "17\n", "17\n/data\n"])
def test_a_file_that_is_being_written_is_no_promise(tmp_path: Path, content: str) -> None:
    assert not accepts_connections(tmp_path, 17)
    (tmp_path / "postmaster.pid").write_text(content)
    assert not accepts_connections(tmp_path, 17)


def test_the_data_tells_which_version_made_it(tmp_path: Path) -> None:
    assert data_major(tmp_path) is None
    (tmp_path / "PG_VERSION").write_text("18\n")
    assert data_major(tmp_path) == 18


def test_a_password_may_hold_anything() -> None:
    plan = PostgresPlan(Path("data"), Path("log"), 8110, password="a/b@c:d")
    assert plan.admin_url == "postgresql://dockyard:a%2Fb%40c%3Ad@127.0.0.1:8110/postgres"
    assert "a/b@c:d" not in repr(plan)
