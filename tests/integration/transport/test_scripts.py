"""Each script by itself: every write, and what it refuses. The model (test_model.py) has what they promise together.

Over 300 lines: ten scripts, a few cases each, on the same small helpers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks_demo.transport.lua import script
from tests.integration.servers.redis import EMBEDDED, RedisServer

OWNERS, BEATS, LEASE, DEAD = "owners", "beats", "lease", "dead"
HELD, UNACKED, INDEX = "held", "unacked", "index"
LETTERS, LETTERS_INDEX = "letters", "letters_index"
LIST, WAKE = "queue", "wake"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with (
        tempfile.TemporaryDirectory(prefix="scripts-") as folder,
        RedisServer(Path(folder), EMBEDDED, "--appendonly", "no") as server,
        redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as client,
    ):
        yield client


@pytest.fixture
def client(server: Any) -> Any:
    server.flushall()
    return server


def holds(client: Any, *tokens: str, at: float = 5) -> None:
    """Record that the owner holds these messages, as a claim does."""
    for number, token in enumerate(tokens, 1):
        client.zadd(HELD, {token: number})
        client.zadd(INDEX, {token: at})
        client.hset(UNACKED, token, f"[{token}]")


def nothing_of(client: Any, token: str) -> bool:
    """Whether none of the three records of a claimed message is left."""
    return (client.zscore(HELD, token), client.zscore(INDEX, token), client.hget(UNACKED, token)) == (None, None, None)


def test_publish_wakes_one_consumer_for_a_minute_and_lets_the_whole_queue_expire(client: Any) -> None:
    client.rpush("queue:9", "older")
    script("publish").run(client, [LIST, WAKE, LIST, "queue:9"], ["message", "90000"])
    script("publish").run(client, [LIST, WAKE, LIST, "queue:9"], ["newer", "90000"])
    assert client.lrange(LIST, 0, -1) == ["newer", "message"]
    assert client.lrange(WAKE, 0, -1) == ["1"], "one marker, however many messages"
    assert 50 < client.ttl(WAKE) <= 60
    assert all(60 < client.ttl(name) <= 90 for name in (LIST, "queue:9"))


def test_publish_without_expiry_leaves_the_queue_for_good(client: Any) -> None:
    script("publish").run(client, [LIST, WAKE], ["message", ""])
    assert client.ttl(LIST) == -1


def claim(client: Any, want: int, *, needs_ack: str = "1", queues: tuple[str, ...] = (LIST,)) -> Any:
    wakes = [f"wake:{name}" for name in queues]
    args: list[Any] = ["me", "tok-", 7, want, len(queues)]
    for name in queues:
        args += [f'"{name}"', "0" if needs_ack == "1" else "1"]
    return script("claim").run(client, [OWNERS, HELD, UNACKED, INDEX, *wakes, *queues], args)


def test_claim_records_the_message_its_owner_and_its_moment(client: Any) -> None:
    client.hset(OWNERS, "me", "watched")
    client.lpush(LIST, '{"a":1}')
    assert claim(client, 5) == [0, 0, '{"a":1}']
    assert client.hgetall(UNACKED) == {"tok-1": '[{"a":1},"","queue"]'}
    assert client.zrange(HELD, 0, -1, withscores=True) == [("tok-1", 7)]
    ((token, score),) = client.zrange(INDEX, 0, -1, withscores=True)
    seconds, microseconds = client.time()
    assert token == "tok-1"
    assert 0 <= seconds + microseconds / 1e6 - score < 60


def test_claim_records_nothing_of_a_message_without_acknowledgement(client: Any) -> None:
    client.hset(OWNERS, "me", "watched")
    client.lpush(LIST, "{}")
    assert claim(client, 5, needs_ack="0") == [0, 0, "{}"]
    assert sorted(client.keys()) == [OWNERS]


def test_claim_takes_one_of_each_queue_in_turn_and_a_fair_share(client: Any) -> None:
    client.hset(OWNERS, mapping={"me": "w", "other": "w"})
    client.rpush("a", "a3", "a2", "a1")
    client.rpush("b", "b3", "b2", "b1")
    assert claim(client, 50, queues=("a", "b")) == [3, 0, "a1", 1, "b1", 0, "a2"], "3 of 6: there are two consumers"
    assert client.exists("wake:a", "wake:b") == 2, "the others are woken for what is left"
    assert 50 < client.ttl("wake:a") <= 60


def test_claim_of_empty_queues_ends_the_wake_marker(client: Any) -> None:
    client.hset(OWNERS, "me", "watched")
    client.lpush("wake:queue", "1")
    assert claim(client, 1) == [0]
    assert not client.exists("wake:queue")


def test_claim_of_an_owner_that_is_not_living_takes_nothing(client: Any) -> None:
    client.lpush(LIST, "message")
    assert claim(client, 1) == ["fenced"]
    assert client.lrange(LIST, 0, -1) == ["message"]


def test_acknowledge_removes_every_record_of_what_the_owner_holds(client: Any) -> None:
    holds(client, "a", "b", "c")
    client.zrem(HELD, "b")  # handed out to somebody else
    assert script("acknowledge").run(client, [HELD, UNACKED, INDEX], ["a", "b"]) == 1
    assert nothing_of(client, "a")
    assert client.hkeys(UNACKED) == ["b", "c"]
    assert client.zrange(INDEX, 0, -1) == ["b", "c"]


def requeue(client: Any, side: str, *pairs: str) -> Any:
    keys = [HELD, UNACKED, INDEX] + [LIST, WAKE] * (len(pairs) // 2)
    return script("requeue").run(client, keys, [side, *pairs])


def test_requeue_puts_messages_first_in_line_and_wakes_a_consumer(client: Any) -> None:
    holds(client, "a", "b")
    client.lpush(LIST, "waiting")
    assert requeue(client, "RPUSH", "b", "message b", "a", "message a") == 2
    assert [client.rpop(LIST) for _ in range(3)] == ["message a", "message b", "waiting"]
    assert nothing_of(client, "a")
    assert nothing_of(client, "b")
    assert client.lrange(WAKE, 0, -1) == ["1"]
    assert 50 < client.ttl(WAKE) <= 60


def test_requeue_can_put_a_message_last_in_line(client: Any) -> None:
    holds(client, "a")
    client.lpush(LIST, "waiting")
    assert requeue(client, "LPUSH", "a", "message a") == 1
    assert client.rpop(LIST) == "waiting"


def test_requeue_skips_what_the_owner_does_not_hold_and_what_has_no_record(client: Any) -> None:
    holds(client, "a", "b")
    client.zrem(HELD, "a")
    client.hdel(UNACKED, "b")  # a stock worker has restored it
    assert requeue(client, "RPUSH", "a", "message a", "b", "message b") == 0
    assert client.hkeys(UNACKED) == ["a"]
    assert not client.exists(LIST, WAKE)


def test_dead_letter_moves_the_message_out_of_every_record(client: Any) -> None:
    holds(client, "a", "b")
    keys = [HELD, UNACKED, INDEX, LETTERS, LETTERS_INDEX]
    assert script("dead_letter").run(client, keys, ["a", "why"]) == 1
    assert nothing_of(client, "a")
    assert client.hgetall(LETTERS) == {"a": "why"}
    ((token, score),) = client.zrange(LETTERS_INDEX, 0, -1, withscores=True)
    assert token == "a"
    assert 0 <= client.time()[0] - score < 60
    assert client.zrange(HELD, 0, -1) == ["b"]


def test_dead_letter_refuses_what_the_owner_does_not_hold_and_what_has_no_record(client: Any) -> None:
    holds(client, "a", "b")
    client.zrem(HELD, "a")
    client.hdel(UNACKED, "b")
    keys = [HELD, UNACKED, INDEX, LETTERS, LETTERS_INDEX]
    assert script("dead_letter").run(client, keys, ["a", "why"]) == 0
    assert script("dead_letter").run(client, keys, ["b", "why"]) == 0
    assert not client.exists(LETTERS, LETTERS_INDEX)
    assert client.hkeys(UNACKED) == ["a"]


def letter(client: Any, token: str) -> None:
    client.hset(LETTERS, token, "why")
    client.zadd(LETTERS_INDEX, {token: 5})


def test_revive_moves_a_dead_letter_last_in_line_and_wakes_a_consumer(client: Any) -> None:
    letter(client, "a")
    client.lpush(LIST, "waiting")
    keys = [LETTERS, LETTERS_INDEX, LIST, WAKE]
    assert script("revive").run(client, keys, ["a", "message a"]) == 1
    assert client.lrange(LIST, 0, -1) == ["message a", "waiting"]
    assert client.lrange(WAKE, 0, -1) == ["1"]
    assert 50 < client.ttl(WAKE) <= 60
    assert not client.exists(LETTERS, LETTERS_INDEX)


def test_revive_of_one_that_is_gone_publishes_nothing(client: Any) -> None:
    keys = [LETTERS, LETTERS_INDEX, LIST, WAKE]
    assert script("revive").run(client, keys, ["a", "message a"]) == 0
    assert not client.exists(LIST, WAKE)


def test_revive_without_a_message_discards(client: Any) -> None:
    letter(client, "a")
    letter(client, "b")
    assert script("revive").run(client, [LETTERS, LETTERS_INDEX], ["a"]) == 1
    assert client.hkeys(LETTERS) == client.zrange(LETTERS_INDEX, 0, -1) == ["b"]


def register(client: Any, new: str) -> Any:
    return script("register").run(client, [OWNERS, BEATS, DEAD], ["me", "7 run 30", new])


def test_register_makes_an_owner_whose_heart_beats(client: Any) -> None:
    assert register(client, "1") == 1
    assert client.hgetall(OWNERS) == {"me": "7 run 30"}
    assert client.hgetall(BEATS) == {"me": "1"}
    assert register(client, "0") == 1, "a new connection"
    assert client.hgetall(BEATS) == {"me": "2"}


@pytest.mark.parametrize("new", ["1", "0"])
def test_register_refuses_an_owner_that_was_declared_dead(client: Any, new: str) -> None:
    client.sadd(DEAD, "me")
    client.hset(OWNERS, "me", "half declared")
    assert register(client, new) == 0
    assert client.hgetall(OWNERS) == {"me": "half declared"}
    assert not client.exists(BEATS)


def test_register_of_a_new_connection_refuses_an_owner_that_is_gone(client: Any) -> None:
    assert register(client, "0") == 0
    assert not client.keys()


def beat(client: Any, me: str = "me") -> Any:
    return script("beat").run(client, [OWNERS, BEATS, LEASE, DEAD], [me, 90000])


def test_beat_takes_the_free_lease_and_watches_everybody(client: Any) -> None:
    client.hset(OWNERS, mapping={"me": "w", "other": "v"})
    client.hset(BEATS, mapping={"me": 4, "other": 9})
    client.sadd(DEAD, "gone")
    role, owners, beats, dead = beat(client)
    assert (role, dict(zip(owners[::2], owners[1::2], strict=True))) == ("watcher", {"me": "w", "other": "v"})
    assert dict(zip(beats[::2], beats[1::2], strict=True)) == {"me": "5", "other": "9"}
    assert dead == ["gone"]
    assert client.get(LEASE) == "me"
    assert 60 < client.ttl(LEASE) <= 90


def test_beat_of_the_others_watches_the_watcher_alone(client: Any) -> None:
    client.hset(OWNERS, mapping={"me": "w", "other": "v", "third": "x"})
    client.hset(BEATS, mapping={"other": 9})
    client.set(LEASE, "other")
    assert beat(client) == ["member", ["other", "v"], ["other", "9"], []]
    assert client.hget(BEATS, "me") == "1"
    assert client.get(LEASE) == "other"


def test_beat_takes_the_lease_of_a_watcher_that_is_no_longer_an_owner(client: Any) -> None:
    client.hset(OWNERS, "me", "w")
    client.set(LEASE, "gone")
    assert beat(client)[0] == "watcher"
    assert client.get(LEASE) == "me"


def test_beat_renews_the_watchers_own_lease(client: Any) -> None:
    client.hset(OWNERS, "me", "w")
    client.set(LEASE, "me", px=1000)
    assert beat(client)[0] == "watcher"
    assert client.ttl(LEASE) > 60


def test_beat_of_one_that_was_declared_dead_changes_nothing(client: Any) -> None:
    assert beat(client) == ["fenced"]
    assert not client.keys()


def declare(client: Any, watched: str, beat: str) -> Any:
    return script("declare_dead").run(client, [OWNERS, BEATS, LEASE, DEAD], ["it", watched, beat])


def test_declare_dead_ends_an_owner_and_its_lease(client: Any) -> None:
    client.hset(OWNERS, mapping={"it": "w", "me": "w"})
    client.hset(BEATS, mapping={"it": 4, "me": 5})
    client.set(LEASE, "it")
    assert declare(client, "w", "4") == 1
    assert client.hkeys(OWNERS) == client.hkeys(BEATS) == ["me"]
    assert client.smembers(DEAD) == {"it"}
    assert not client.exists(LEASE)


def test_declare_dead_leaves_the_lease_of_another(client: Any) -> None:
    client.hset(OWNERS, "it", "w")
    client.hset(BEATS, "it", 4)
    client.set(LEASE, "me")
    assert declare(client, "w", "4") == 1
    assert client.get(LEASE) == "me"


@pytest.mark.parametrize(("watched", "beat"), [("another connection", "4"), ("w", "3"), ("another connection", "3")])
def test_declare_dead_refuses_if_anything_was_heard_since(client: Any, watched: str, beat: str) -> None:
    client.hset(OWNERS, "it", "w")
    client.hset(BEATS, "it", 4)
    client.set(LEASE, "it")
    assert declare(client, watched, beat) == 0
    assert (client.hgetall(OWNERS), client.hgetall(BEATS), client.get(LEASE)) == ({"it": "w"}, {"it": "4"}, "it")
    assert not client.exists(DEAD)


def test_renew_touches_only_what_is_old_and_still_recorded(client: Any) -> None:
    now = client.time()[0]
    holds(client, "old", at=now - 100)
    client.zadd(HELD, {"young": 2, "restored": 3})
    client.zadd(INDEX, {"young": now - 10, "another's": now - 100})
    assert script("renew").run(client, [HELD, INDEX], [50]) == 1
    scores = dict(client.zrange(INDEX, 0, -1, withscores=True))
    assert scores["old"] >= now
    assert (scores["young"], scores["another's"]) == (now - 10, now - 100)
    assert "restored" not in scores


@pytest.fixture
def full(client: Any) -> Iterator[Any]:
    """A Redis at its memory limit, which refuses a command that needs memory, and a script whose first write does."""
    client.hset(OWNERS, mapping={"me": "w", "it": "w"})
    client.hset(BEATS, mapping={"me": 1, "it": 4})
    holds(client, "a", "b")
    client.lpush(LIST, "message")
    client.config_set("maxmemory", 1)
    yield client
    client.config_set("maxmemory", 0)


def test_full_redis_refuses_to_publish(full: Any) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match="OOM"):
        script("publish").run(full, [LIST, WAKE], ["message", ""])
    assert full.llen(LIST) == 1


def test_full_redis_takes_beats_registrations_and_declarations(full: Any) -> None:
    assert register(full, "0") == 1
    assert beat(full)[0] == "watcher"
    assert declare(full, "w", "4") == 1
    assert full.smembers(DEAD) == {"it"}


def test_full_redis_takes_claims_and_what_becomes_of_messages(full: Any) -> None:
    assert claim(full, 5) == [0, 0, "message"]
    assert full.hget(UNACKED, "tok-1") == '[message,"","queue"]'
    assert requeue(full, "RPUSH", "a", "message a") == 1
    assert script("dead_letter").run(full, [HELD, UNACKED, INDEX, LETTERS, LETTERS_INDEX], ["b", "why"]) == 1
    assert script("revive").run(full, [LETTERS, LETTERS_INDEX, LIST, WAKE], ["b", "message b"]) == 1
    assert full.lrange(LIST, 0, -1) == ["message b", "message a"]
    assert script("acknowledge").run(full, [HELD, UNACKED, INDEX], ["tok-1"]) == 1
