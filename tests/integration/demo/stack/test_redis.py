"""The embedded Redis: a real server, killed and restarted."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as client

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack import EmbeddedRedis
from tasks_demo.demo.stack import redis as stack_redis
from tests.support import Home, finish, first_line, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as running:
        yield running


def connected(server: EmbeddedRedis) -> client.Redis:
    return client.Redis.from_url(server.url, decode_responses=True)


def test_embedded_redis_is_configured_for_durability(server: EmbeddedRedis) -> None:
    with connected(server) as redis:
        shown = {
            name: redis.config_get(name)[name]
            for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", "maxmemory", "port")
        }
    assert shown == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": "0",
        "port": "0",
    }


def test_embedded_redis_is_reached_by_its_owner_only(server: EmbeddedRedis) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700


def test_embedded_redis_keeps_what_is_in_its_file_after_a_sigkill(server: EmbeddedRedis) -> None:
    with connected(server) as redis:
        for number in range(500):
            redis.rpush("list", number)
        until(lambda: redis.info("persistence")["aof_buffer_length"] == 0, "the end of what the file lacks")
    assert server.process is not None
    first = server.process.pid
    server.kill()
    assert not server.alive()
    with pytest.raises(client.ConnectionError), connected(server) as redis:
        redis.ping()
    server.start()
    with connected(server) as redis:
        assert redis.lrange("list", 0, -1) == [str(number) for number in range(500)]
    assert server.process.pid != first


def test_embedded_redis_keeps_its_data_and_ends_with_the_block(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, connected(server) as redis:
        redis.set("kept", "yes")
        process = server.process
    assert process is not None
    assert process.returncode == 0
    assert not server.alive()
    with EmbeddedRedis(tmp_path) as server, connected(server) as redis:
        assert redis.get("kept") == "yes"


def test_embedded_redis_refuses_a_second_server_on_its_folder(server: EmbeddedRedis, tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentNotReady, match=f"process {os.getpid()} is already running"),
        EmbeddedRedis(server.folder, tmp_path / "other.sock"),
    ):
        pass
    with connected(server) as redis:
        assert redis.ping()


def test_embedded_redis_keeps_its_folder_locked_between_kill_and_start(server: EmbeddedRedis) -> None:
    server.kill()
    with pytest.raises(EnvironmentNotReady, match="already running"), EmbeddedRedis(server.folder):
        pass
    server.start()
    assert server.alive()


def test_embedded_redis_that_outlives_its_parent_keeps_its_folder_locked(server: EmbeddedRedis) -> None:
    """As on systems without a death signal: the server holds the lock too, not only its parent."""
    assert server._lock is not None
    os.close(server._lock)
    server._lock = None
    with pytest.raises(EnvironmentNotReady, match="already running"), EmbeddedRedis(server.folder):
        pass


def test_embedded_redis_takes_no_socket_that_is_in_use(server: EmbeddedRedis, tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentNotReady, match="already listening"),
        EmbeddedRedis(tmp_path / "elsewhere", server.socket),
    ):
        pass
    with connected(server) as redis:
        assert redis.ping()


def test_embedded_redis_failed_start_shows_the_log_and_unlocks_the_folder(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is no append-only file\r\n" * 3)
    began = time.monotonic()
    with (
        pytest.raises(EnvironmentNotReady, match=r"exited.*\n(.*\n)*.*Bad file format"),
        EmbeddedRedis(tmp_path),
    ):
        pass
    assert time.monotonic() - began < stack_redis.READY_SECONDS, "it has not waited for an answer"
    (tmp_path / "appendonly.aof").unlink()
    with EmbeddedRedis(tmp_path) as server:
        assert server.alive()


@pytest.mark.parametrize("name", ["with space", "100%25", "a?b#c", "é"])
def test_embedded_redis_runs_in_oddly_named_folders(tmp_path: Path, name: str) -> None:
    with EmbeddedRedis(tmp_path / name) as server, connected(server) as redis:
        assert redis.ping()


def test_embedded_redis_moves_a_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30)
    with EmbeddedRedis(deep) as server, connected(server) as redis:
        moved = server.socket
        assert redis.ping()
        assert len(os.fsencode(moved)) <= stack_redis.LONGEST_SOCKET_PATH
        assert stat.S_IMODE(moved.parent.stat().st_mode) == 0o700
        server.kill()
        server.start()
        assert server.socket == moved
    assert not moved.parent.exists()
    with pytest.raises(EnvironmentNotReady, match="longer than 100 bytes"):
        EmbeddedRedis(tmp_path, deep / "redis.sock")


def test_executable_says_why_no_redis_server_runs_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n")
    broken.chmod(0o700)
    monkeypatch.setattr(stack_redis, "_candidates", lambda: ["/nonexistent/redis-server", str(broken)])
    stack_redis.executable.cache_clear()
    try:
        with pytest.raises(EnvironmentNotReady, match=r"does not run.*version 5\.0, older than 6\.2"):
            stack_redis.executable()
    finally:
        stack_redis.executable.cache_clear()


# -- manage.py redis -------------------------------------------------------------------------------------------------


def process_id(socket: Path) -> int:
    with client.Redis(unix_socket_path=str(socket)) as redis:
        return int(redis.info("server")["process_id"])


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_redis_command_runs_in_the_foreground(tmp_path: Path, asked: signal.Signals, code: int) -> None:
    running = Home(tmp_path).start("redis", own_group=True)
    assert "Redis listening on" in first_line(running)
    server = process_id(tmp_path / "redis.sock")
    second = Home(tmp_path).manage("redis")
    assert (second.code, "already running" in second.sentence()) == (4, True)
    running.send_signal(asked)
    done = finish(running)
    assert (done.code, done.err) == (code, "")
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_redis_command_says_that_the_server_died(tmp_path: Path) -> None:
    running = Home(tmp_path).start("redis", own_group=True)
    first_line(running)
    os.kill(process_id(tmp_path / "redis.sock"), signal.SIGKILL)
    done = finish(running)
    assert (done.code, "exited unexpectedly (code -9)" in done.sentence()) == (4, True)


def test_redis_command_is_refused_beside_a_server_of_redis_url(tmp_path: Path) -> None:
    done = Home(tmp_path).manage("redis", env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (done.code, "REDIS_URL names another server" in done.sentence()) == (4, True)
    assert not (tmp_path / "redis").exists()
