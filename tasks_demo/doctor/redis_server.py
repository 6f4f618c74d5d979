"""Examines each Redis once, even if several parts use it: eviction, persistence, memory, clock, writes, other users."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import redis

from tasks_demo.core.wording import counted, shown
from tasks_demo.doctor.connections import RedisUser
from tasks_demo.doctor.database import clock
from tasks_demo.doctor.findings import Finding, State, fail, ok, reason, unusable, warn
from tasks_demo.transport import count_dead_letters, list_dead_letters

#: Oldest supported Redis: kombu finds unacknowledged messages with ZRANGE ... BYSCORE (kombu/transport/redis.py
#: ``restore_visible``).
OLDEST = (6, 2)
#: A Redis that uses this fraction of maxmemory counts as nearly full.
NEARLY_FULL = 0.9
#: Maximum number of keys scanned to find other users.
MOST_SCANNED = 20_000
#: Prefix of the description of a queue that has our key prefix but is not in our settings.
UNKNOWN_QUEUE = "a queue that is not in our settings: "
#: Celery's keys with any prefix (kombu/transport/redis.py, the reliable transport, celery/backends/base.py).
OF_CELERY = re.compile(
    r"(?P<prefix>.*?)(?:_kombu\.binding(?:_permanent)?\.(?P<queue>.+)|_kombu\.binding_deadlines|_kombu\.claims\..+|unacked(?:_index|_mutex)?|celery-task(?:set)?-meta-.+|chord-unlock-.+)",
    re.DOTALL,
)


def examine(users: Sequence[RedisUser], queues: frozenset[str]) -> list[Finding]:
    """Examine the server that these users share. ``queues``: names of the queues and exchanges that our Celery app uses."""
    client, part = users[0].client, title(users)
    needed = any(user.needed for user in users)
    try:
        info = client.info()
    except redis.RedisError as error:
        seen = f"INFO is refused ({reason(error)}): eviction, persistence and memory are unknown"
        rows = [warn(part, "settings", seen, "Allow this user +info, or see the provider's console.")]
    else:
        rows = [
            _version(part, info, needed=needed),
            _eviction(part, info, needed=needed),
            _persistence(part, info, client, needed=needed),
            _memory(part, info),
        ]
    before = time.time()
    seconds, microseconds = client.time()
    rows.append(clock(part, seconds + microseconds / 1e6, before, time.time()))
    rows.append(_other_users(part, users, queues))  # before our own test writes
    rows += [row for user in users if user.role == "broker" for row in _dead_letters(part, user)]
    return [*rows, *(_writes(part, user) for user in users)]


def title(users: Sequence[RedisUser]) -> str:
    """Return the server's name in the result: its users' roles."""
    return f"Redis ({', '.join(user.role for user in users)})"


def group(users: Sequence[RedisUser]) -> list[list[RedisUser]]:
    """Group the users by server and database; with Sentinels, by the primary that they name now."""
    servers: dict[Any, list[RedisUser]] = {}
    for user in users:
        options = user.client.connection_pool.connection_kwargs
        pool = user.client.connection_pool
        place = options.get("path") or (options.get("host"), options.get("port"))
        if hasattr(pool, "get_master_address"):
            place = tuple(pool.get_master_address())
        servers.setdefault((place, int(options.get("db") or 0)), []).append(user)
    return list(servers.values())


def _dead_letters(part: str, user: RedisUser) -> list[Finding]:
    """Say that ``tasks_demo.transport`` has set messages aside. Nothing else shows them, and nothing deletes them."""
    try:
        number = count_dead_letters(user.client, user.prefix)
        found = list_dead_letters(user.client, user.prefix, limit=1) if number else []
    except redis.RedisError as error:
        fix = "Allow this user +hlen, +hmget and +zrevrange, or look at the dead letters as another user."
        return [warn(part, "dead letters", f"unknown: {reason(error)}", fix)]
    if not number:
        return []
    newest = "; ".join(f"the newest, {one.task or 'no task'} of the queue {one.queue!r}: {one.reason}" for one in found)
    fix = "`python manage.py quarantine` lists, requeues and discards them; so does the admin (Dead letters)."
    seen = f"{counted(number, 'message')} that no worker runs any more ({newest})"
    return [warn(part, "dead letters", seen, fix)]


def _version(part: str, info: dict[str, Any], *, needed: bool) -> Finding:
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "unknown"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", str(info.get("redis_version", "")))[:2])
    if numbers and numbers < OLDEST and needed:
        seen = f"{product} {version} is older than 6.2: Celery cannot redeliver the messages of dead workers"
        return fail(part, "version", seen, "Install Redis 6.2 or newer.")
    return ok(part, "version", f"{product} {version}")


def _eviction(part: str, info: dict[str, Any], *, needed: bool) -> Finding:
    policy, limit = str(info.get("maxmemory_policy", "unknown")), info.get("maxmemory")
    fix = "Set maxmemory-policy noeviction (redis.conf, CONFIG SET, or the provider's parameter group)."
    if policy == "noeviction":
        return ok(part, "eviction", "noeviction: a full Redis refuses writes and drops nothing")
    if policy == "unknown":
        return warn(part, "eviction", "maxmemory-policy is unknown: INFO does not show it", fix)
    if limit == 0:
        seen = f"{policy}, but maxmemory is not set: nothing is evicted until it is"
        return warn(part, "eviction", seen, fix)
    victims = "queues, leases and completed markers" if policy.startswith("allkeys") else "leases and completed markers"
    seen = f"{policy}: a full Redis drops {victims if needed else 'results'}"
    return Finding(part, "eviction", State.FAIL if needed else State.WARN, seen, fix)


def _persistence(part: str, info: dict[str, Any], client: Any, *, needed: bool) -> Finding:
    what = "persistence"
    if "aof_enabled" not in info:
        return warn(part, what, "unknown: INFO does not show it", "See the provider's console.")
    if info["aof_enabled"]:
        if info.get("aof_last_write_status", "ok") != "ok":
            seen = "the append-only file cannot be written: Redis refuses writes"
            return fail(part, what, seen, "Free space on its disk.")
        often = _configured(client, "appendfsync")
        costs = {
            "always": "a power failure loses no acknowledged write",
            "everysec": "a power failure loses up to 2 s of acknowledged writes, a kill none unless the disk is slow",
            "no": "a power failure loses what the kernel has not written yet, often 30 s",
        }
        seen = f"append-only file, appendfsync {often or 'unknown (CONFIG is refused)'}: "
        state = State.WARN if often == "no" else State.OK
        fix = "Set appendfsync everysec." if often == "no" else ""
        return Finding(
            part, what, state, seen + costs.get(often or "", "this decides how much a power failure loses"), fix
        )
    copies, snapshots = int(info.get("connected_slaves", 0)), _configured(client, "save")
    state = State.WARN
    if snapshots:
        seen = "snapshots only: a restart loses every job and lease since the last one"
    elif snapshots is None:
        seen = (
            "no append-only file; snapshots unknown (CONFIG is refused): a restart loses jobs and leases, perhaps all"
        )
    elif copies:
        seen = (
            f"nothing on disk, {counted(copies, 'replica')}: a failover loses unreplicated writes, a restart everything"
        )
    else:
        seen = "none: a restart loses every queued job and every lease"
        state = State.FAIL if needed else State.WARN
    return Finding(part, what, state, seen, "Set appendonly yes.")


def _configured(client: Any, name: str) -> str | None:
    """Return one value of CONFIG GET; None if it is forbidden, as on most managed servers."""
    try:
        found = client.config_get(name)
    except redis.RedisError:
        return None
    value = found.get(name)
    return None if value is None else str(value)


def _memory(part: str, info: dict[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return ok(part, "memory", f"{_size(used)} used, no maxmemory")
    seen = f"{_size(used)} of {_size(limit)} used"
    if used < NEARLY_FULL * limit:
        return ok(part, "memory", seen)
    fix = "Raise maxmemory, or find out what grows: queues, results, or keys of other applications."
    return warn(part, "memory", f"{seen}: when it is full, no job can be published and no lease claimed", fix)


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"


def _writes(part: str, user: RedisUser) -> Finding:
    """Write a key that expires after one second; for the leases, also run a script that reads it."""
    what = f"writes of {user.role}"
    # An ACL that allows Celery's keys allows this name, and the next run of the doctor recognises it as ours.
    key = f"{user.prefix}{'' if user.role == 'leases' else 'celery-task-meta-'}doctor-{uuid.uuid4().hex}"
    try:
        user.client.set(key, "1", px=1000)
        if user.role == "leases":
            user.client.eval("return redis.call('GET', KEYS[1])", 1, key)
    except redis.RedisError as error:
        words = reason(error)
        fix = next((fix for sign, fix in _REFUSALS.items() if sign in words.lower()), "See the server's log.")
        return unusable(part, what, f"refused: {words}", fix)
    return ok(part, what, "accepted")


_REFUSALS = {
    "readonly": "This is a replica. Write the address of the primary.",
    "read only replica": "This is a replica. Write the address of the primary.",
    "replicas": "Start its replicas, or lower min-replicas-to-write.",
    "oom": "Raise maxmemory, or delete what is not needed.",
    "outofmemory": "Raise maxmemory, or delete what is not needed.",
    "misconf": "Its disk cannot be written: free space, and see its log.",
    "noperm": "Allow this user the commands and keys of Celery and of the leases (ACL SETUSER).",
    "nopermission": "Allow this user the commands and keys of Celery and of the leases (ACL SETUSER).",
}


def _other_users(part: str, users: Sequence[RedisUser], queues: frozenset[str]) -> Finding:
    """Report other users of this server. If two apps share keys, the shorter visibility timeout applies to both."""
    client = users[0].client
    others: Counter[str] = Counter()
    scanned = 0
    try:
        for key in islice(client.scan_iter(count=1000), MOST_SCANNED):
            scanned += 1
            others[_owner(key if isinstance(key, str) else key.decode(errors="replace"), users, queues)] += 1
    except redis.RedisError as error:
        fix = "Allow this user +scan, or check by hand for other applications."
        return warn(part, "other users", f"unknown: {reason(error)}", fix)
    del others[""]
    unknown = [name.removeprefix(UNKNOWN_QUEUE) for name in others if name.startswith(UNKNOWN_QUEUE)]
    for name in unknown:
        del others[name]  # the key of its message list
    most = ", ".join(f"{shown(name, 100)} ({count})" for name, count in others.most_common(5))
    seen = f"keys of others among {scanned}: {most}" if others else f"no keys of others among {scanned}"
    seen += _named(client)
    if unknown:
        seen += _left_in(unknown, users)
        seen += ". If two Celery apps share keys, the shorter visibility timeout applies to both"
        fix = (
            "If the queue is yours (named by a call, or by a function in task_routes), start a worker for it, with -Q. If not, "
            "give each app its own database, or a global_keyprefix in CELERY_BROKER_TRANSPORT_OPTIONS."
        )
        return warn(part, "other users", seen, fix)
    return ok(part, "other users", seen)


def _left_in(queues: list[str], users: Sequence[RedisUser]) -> str:
    """Return a clause that counts the messages in queues that are not in our settings; empty if there are none."""
    broker = next((user for user in users if user.role == "broker"), None)
    waiting = {}
    for name in queues if broker else ():
        with suppress(redis.RedisError):  # the key has another type, or LLEN is forbidden
            waiting[name] = int(users[0].client.llen(f"{broker.prefix if broker else ''}{name}"))
    counts = [f"{many} wait{'s' if many == 1 else ''} in {shown(name, 100)}" for name, many in waiting.items() if many]
    return f". Messages: {', '.join(counts[:5])}" if counts else ""


def _named(client: Any) -> str:
    """Return a clause that lists the named connections (CLIENT SETNAME)."""
    try:
        names = sorted({str(entry["name"]) for entry in client.client_list() if entry.get("name")})
    except redis.RedisError:
        return "; names of connections unknown (CLIENT LIST is refused)"
    return f"; named connections: {', '.join(shown(name, 40) for name in names[:5])}" if names else ""


def _owner(key: str, users: Sequence[RedisUser], queues: frozenset[str]) -> str:
    """Return the owner of a key, in words; empty if it is ours."""
    prefixes = {user.role: user.prefix for user in users}
    if "leases" in prefixes and key.startswith(prefixes["leases"]):
        return ""
    broker = next((user for user in users if user.role == "broker"), None)
    bare = key.removeprefix(broker.prefix) if broker else key
    if broker and broker.internal.fullmatch(bare):
        return ""
    ours = {prefixes.get("broker"), prefixes.get("results")}
    found = OF_CELERY.fullmatch(key)
    if found:
        if found["prefix"] not in ours:
            return f"Celery with the prefix {found['prefix']}"
        queue = found["queue"] or ""
        if queue and broker is None:
            return "queues of Celery"  # another app's: our broker is not this Redis
        known = not queue or queue in queues or (broker and broker.internal.fullmatch(queue))
        return "" if known else UNKNOWN_QUEUE + queue
    # kombu appends a separator and the priority to the queue's name.
    name, _, priority = bare.rpartition(broker.separator) if broker and broker.separator else ("", "", "")
    if bare in queues or (priority.isdecimal() and name in queues):
        return ""
    head, colon, _ = key.partition(":")
    return head + colon
