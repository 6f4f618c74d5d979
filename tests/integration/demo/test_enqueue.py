"""``manage.py enqueue``: what it publishes, and its messages about bad input and unavailable services."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.demo.management.commands.enqueue import Command
from tasks_demo.leases.redis_client import connect
from tests.integration.servers.redis import RedisServer
from tests.support import Finished, Home, finish, queued, together, until


@pytest.fixture
def queue(home: Home, short: Path) -> Iterator[RedisServer]:
    """A separate Redis for the jobs published here; no worker consumes them."""
    with RedisServer(short) as server:
        yield server


@pytest.fixture
def enqueue(home: Home, queue: RedisServer) -> Callable[..., Finished]:
    def run(*arguments: str | bytes) -> Finished:
        return home.manage("enqueue", *arguments, env={"REDIS_URL": queue.url})

    return run


def messages(server: RedisServer) -> list[dict[str, Any]]:
    """The messages in the queue, oldest first."""
    with server.client() as client:
        return [json.loads(raw) for raw in reversed(client.lrange("celery", 0, -1))]


# -- what it publishes -----------------------------------------------------------------------------------------------------


def test_enqueue_prints_the_task_ids_of_the_jobs_in_the_queue(
    enqueue: Callable[..., Finished], queue: RedisServer
) -> None:
    done = enqueue("acks_late", "-n", "3", "--amount", "250", "--work", "40")
    assert (done.code, done.err) == (0, "")
    sent = messages(queue)
    assert done.out.split() == [message["headers"]["id"] for message in sent]
    assert {message["headers"]["task"] for message in sent} == {"tasks_demo.charge_acks_late"}


def test_enqueue_json_is_one_object_a_line_and_the_ledger_has_every_job(
    enqueue: Callable[..., Finished], home: Home
) -> None:
    done = enqueue("dedup_lock", "-n", "2", "--json", "--operation", "order-17")
    assert (done.code, done.err) == (0, "")
    jobs = [json.loads(line) for line in done.out.splitlines()]
    assert [(job["operation"], job["pattern"]) for job in jobs] == [("order-17", "dedup_lock")] * 2
    assert len({job["task_id"] for job in jobs}) == 2
    for job in jobs:
        shown = json.loads(home.manage("timeline", job["task_id"], "--json").out)
        assert (shown["publications"], shown["operation"], shown["verdict"]) == (1, "order-17", "unresolved")


KEYS = ["{}", "*", ":", "{a}:*?[x]", "order 17 ☃ 😀", "x" * 200, "-", "'; --", "%s%n", "../../etc"]


def test_enqueue_passes_unusual_operation_keys_unchanged(home: Home, queue: RedisServer) -> None:
    code = (
        "from django.core.management import call_command\n"
        f"for key in {KEYS!r}: call_command('enqueue', 'dedup_lock', '--json', '--operation=' + key)"
    )
    done = home.python(code, env={"REDIS_URL": queue.url})
    assert done.code == 0, done.err
    assert [json.loads(line)["operation"] for line in done.out.splitlines()] == KEYS
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages(queue)]
    assert [kwargs["operation"] for _, kwargs, _ in bodies] == KEYS


# -- usage -----------------------------------------------------------------------------------------------------------------

USAGE: list[tuple[list[str], str]] = [
    ([], "the following arguments are required: pattern"),
    (["nonsense"], "invalid choice: 'nonsense'"),
    (["acks-late"], "invalid choice"),
    ([""], "invalid choice"),
    *(
        (["acks_late", "-n", text], "-n is 1 to 1000000")
        for text in ("0", "-1", "1000001", "nan", "1.5", "", "1e3", "٣")
    ),
    *((["acks_late", "--amount", text], "--amount is 1 to") for text in ("0", "-5", "inf", "9" * 30)),
    *((["acks_late", "--work", text], "--work is 0 to") for text in ("-1", "240001", "soon")),
    (["acks_late", "--operation"], "expected one argument"),
    (["acks_late", "--surprise"], "unrecognized arguments: --surprise"),
    (["acks_late", "--operation", ""], "operation key is empty"),
    (["acks_late", "--operation", "x" * 201], "has 201 characters; 200 are allowed"),
    (["acks_late", "--operation", "x" * 10_240], "has 10240 characters"),
    (["acks_late", "--operation", "two\nlines"], "control character (U+000A)"),
    (["acks_late", "--operation", "nul\0"], "control character (U+0000)"),
    (["acks_late", "--operation", "\x1b[31mred"], "control character (U+001B)"),
    (["acks_late", "--operation", "half \ud800 pair"], "lone surrogate (U+D800)"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE, ids=lambda value: ascii(value)[:50])
def test_enqueue_used_wrongly_is_exit_2_and_publishes_nothing(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], redis_url: str
) -> None:
    before = queued(redis_url)
    with pytest.raises(SystemExit) as left:
        Command().run_from_argv(["manage.py", "enqueue", *arguments])
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert said in captured.err
    assert captured.out == ""
    assert queued(redis_url) == before


def test_enqueue_command_used_wrongly_is_exit_2(enqueue: Callable[..., Finished], queue: RedisServer) -> None:
    bad: list[tuple[str | bytes, ...]] = [
        ("nonsense",),
        ("acks_late", "-n", "0"),
        ("acks_late", "--operation", b"not utf-8: \xff"),
        ("acks_late", "--operation", "a\nb"),
    ]
    for done in together([lambda arguments=arguments: enqueue(*arguments) for arguments in bad], 2):  # type: ignore[misc]
        assert (done.code, done.out) == (2, ""), done
        done.sentence()
    assert messages(queue) == []


# -- services that are not ready ------------------------------------------------------------------------------------------------


def refused(done: Finished, *said: str) -> None:
    assert (done.code, done.out) == (4, ""), done
    sentence = done.sentence()
    assert len(sentence.strip().splitlines()) == 1, sentence
    for text in ("The broker did not accept job 1 of 2", "In the queue: no jobs.", *said):
        assert text in sentence


def test_enqueue_while_redis_is_down(home: Home, short: Path) -> None:
    refused(
        home.manage("enqueue", "acks_late", "-n", "2", env={"REDIS_URL": f"unix://{short}/nobody"}), "Start the broker"
    )


def test_enqueue_while_redis_takes_no_writes(enqueue: Callable[..., Finished], queue: RedisServer) -> None:
    with queue.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        refused(enqueue("acks_late", "-n", "2"), "accept writes")
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("maxmemory", "1")
        refused(enqueue("acks_late", "-n", "2"), "accept writes")
        client.config_set("maxmemory", "0")
    assert enqueue("acks_late", "-n", "2").code == 0
    assert len(messages(queue)) == 2


def test_enqueue_with_a_wrong_password_of_redis(home: Home, short: Path) -> None:
    with RedisServer(short) as server:
        with connect(server.url, 5) as client:
            client.config_set("requirepass", "right")
        for password in ("", "wrong@"):
            url = server.url.replace("unix://", f"unix://:{password}" if password else "unix://")
            done = home.manage("enqueue", "acks_late", "-n", "2", env={"REDIS_URL": url})
            refused(done)
            assert "wrong" not in done.err
        done = home.manage("enqueue", "acks_late", env={"REDIS_URL": server.url.replace("unix://", "unix://:right@")})
        assert done.code == 0, done.err


def test_enqueue_while_the_ledger_cannot_be_written_publishes_and_warns(
    home: Home, queue: RedisServer, short: Path
) -> None:
    """The broker has the job. Its ID is printed, and stderr says what the ledger lacks."""
    state = short / "fresh"
    done = home.manage(
        "enqueue",
        "acks_late",
        env={"REDIS_URL": queue.url, "STATE_DIR": str(state), "DATABASE_URL": f"sqlite:///{state}/db"},
    )
    assert [message["headers"]["id"] for message in messages(queue)] == done.out.split()
    assert "migrate" in done.sentence()


def test_enqueue_interrupted_says_how_many_jobs_are_in_the_queue(home: Home, queue: RedisServer) -> None:
    process = home.start("enqueue", "acks_late", "-n", "100000", env={"REDIS_URL": queue.url}, own_group=True)
    until(lambda: queued(queue.url) >= 5, "the first jobs in the queue")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.err
    printed, there = len(done.out.split()), len(messages(queue))
    assert f"Interrupted. In the queue: {printed} of 100000 jobs." in done.sentence()
    assert printed == there
