"""The ledger's names, outcomes and verdicts for another project's tasks; the verdict counts executions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop

#: No process dies before its start is on record.
SETTINGS = {"TASKS_DEMO_MAX_ATTEMPTS": 2, "TASKS_DEMO_LEDGER_WAIT_SECONDS": 30.0}
#: The tally columns that the cases below state.
COLUMNS = ("task", "outcome", "verdict", "executions", "deliveries", "failed", "ended")
#: Publishes every case before a worker starts, so that expiring jobs have expired by then. Prints case -> task ID.
PUBLISH = """
import json, datetime
sent = {}
def publish(case, task, *args, **options):
    sent[case] = task.apply_async(args=args, **options).id
a, late, index = tasks.awkward, tasks.awkward_late, tasks.index_awkwardly
past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=5)
for case in %r:
    match case.split(": "):
        case [who, "expired"]:
            publish(case, {"early": a, "late": late}[who], case, "return", expires=past)
        case ["early", "fail"]:
            publish(case, tasks.fail, case)
        case ["early", "unknown"]:
            sent[case] = app.send_task("orders.nobody_knows", args=[1]).id
        case ["early", "elsewhere"]:
            publish(case, a, case, "return", queue="nobody-listens")
        case ["late", "time limit"]:
            publish(case, late, case, "hang", time_limit=3)
        case [who, how]:
            publish(case, {"early": a, "late": late, "pattern": index}[who], case, how)
print("=>" + json.dumps(sent))
"""
#: Waits until each task ID has the expected columns; prints the final values.
WATCH = """
import json, time
from tasks_demo.ledger.models import Tally
sent, wanted, columns = json.loads(%r), json.loads(%r), %r
until = time.monotonic() + 60
while True:
    rows = {row.pop("task_id"): row for row in Tally.objects.filter(task_id__in=sent.values()).values("task_id", *columns)}
    seen = {case: {name: rows.get(sent[case], {}).get(name) for name in wanted[case]} for case in wanted}
    if seen == wanted or time.monotonic() > until:
        break
    time.sleep(0.05)
print("=>" + json.dumps(seen))
"""


OVERVIEW_AND_RECOUNT = """
import json
from collections import Counter
from tasks_demo.ledger import rollups
from tasks_demo.ledger.models import Event, Tally
while not rollups.fold(1):
    pass
overview = Counter()
for total in rollups.totals():
    overview.update({name: total[name] for name in rollups.COUNTED})
tallies = list(Tally.objects.all())
starts = Counter(Event.objects.filter(kind="started").values_list("task_id", flat=True))
recount = Counter(f"executions_{min(starts[tally.task_id], 2)}" for tally in tallies)
recount.update(f"effects_{min(tally.effects, 2)}" for tally in tallies)
recount.update(tally.outcome for tally in tallies if tally.outcome in rollups.COUNTED)
recount.update(lost=sum(tally.verdict == "lost" for tally in tallies), broken=sum(tally.broken for tally in tallies),
    suppressed=sum(tally.suppressed > 0 for tally in tallies), deferred=sum(tally.deferred > 0 for tally in tallies),
    published=sum(tally.publications > 0 for tally in tallies), booked=sum(tally.books != "" for tally in tallies),
    task_ids=len(tallies))
print("=>" + json.dumps([+overview, +recount]))
"""


def has(task: str, outcome: str, verdict: str, **counts: int) -> dict[str, Any]:
    return {"task": task, "outcome": outcome, "verdict": verdict, **counts}


EARLY, LATE, INDEX = "orders.awkward", "orders.awkward_late", "orders.index_awkwardly"
EVERY_POOL = {
    "early: return": has(EARLY, "succeeded", "ok", executions=1, deliveries=1),
    "late: return": has(LATE, "succeeded", "ok", executions=1, deliveries=1),
    "pattern: return": has(INDEX, "succeeded", "ok", executions=1, deliveries=1),
    "early: fail": has("orders.fail", "failed", "ok", executions=1, failed=1),
    "early: retry": has(EARLY, "succeeded", "recovered", executions=2, failed=0),
    "pattern: retry": has(INDEX, "succeeded", "recovered", executions=2, failed=0),
    "early: retry later": has(EARLY, "retrying", "unresolved", executions=1),
    "early: ignore": has(EARLY, "rejected", "ok", executions=1, ended=1, failed=0),
    "pattern: ignore": has(INDEX, "rejected", "ok", executions=1, ended=1, failed=0),
    "late: reject": has(LATE, "rejected", "ok", executions=1, ended=1, failed=0),
    "pattern: reject": has(INDEX, "rejected", "ok", executions=1, ended=1, failed=0),
    "early: requeue": has(EARLY, "rejected", "ok", executions=1, deliveries=1, ended=1),
    "late: requeue": has(LATE, "succeeded", "recovered", executions=2, ended=1),
    "pattern: requeue": has(INDEX, "succeeded", "recovered", executions=2, ended=1),
    "early: replace": has(EARLY, "succeeded", "recovered", executions=2, ended=1),
    "early: expired": has(EARLY, "expired", "dropped", executions=0, deliveries=1, ended=1),
    "late: expired": has(LATE, "expired", "dropped", executions=0, deliveries=1, ended=1),
    "early: unknown": has("orders.nobody_knows", "rejected", "lost", executions=0, deliveries=1, ended=1),
    "early: elsewhere": has(EARLY, "waiting", "unresolved", deliveries=0),
}
WITH_CHILDREN = {
    "early: die": has(EARLY, "failed", "lost", executions=1, failed=1, ended=1),
    "late: die once": has(LATE, "succeeded", "recovered", executions=2, deliveries=2, failed=0),
    "pattern: die once": has(INDEX, "succeeded", "recovered", executions=2, deliveries=2, failed=0),
    "pattern: die": has(INDEX, "parked", "parked", executions=2, failed=0),
    "late: time limit": has(LATE, "failed", "lost", executions=1, failed=1, ended=1),
}


def published(bookshop: Bookshop, cases: list[str]) -> dict[str, str]:
    done = bookshop.python(PUBLISH % (cases,))
    assert done.code == 0, done.err
    sent: dict[str, str] = json.loads(done.out.rpartition("=>")[2])
    return sent


def watched(bookshop: Bookshop, sent: dict[str, str], wanted: dict[str, Any]) -> dict[str, Any]:
    done = bookshop.python(WATCH % (json.dumps(sent), json.dumps(wanted), COLUMNS), timeout=90)
    assert done.code == 0, done.err
    seen: dict[str, Any] = json.loads(done.out.rpartition("=>")[2])
    return seen


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_tally_has_an_outcome_and_a_verdict_for_every_end(bookshop: Bookshop, pool: str) -> None:
    wanted = {**EVERY_POOL, **WITH_CHILDREN} if pool == "prefork" else EVERY_POOL
    earlier = bookshop.value("Tally.objects.count()", before="from tasks_demo.ledger.models import Tally\n")
    sent = published(bookshop, list(wanted))
    with bookshop.worker(f"--pool={pool}", settings=SETTINGS):
        assert watched(bookshop, sent, wanted) == wanted
    done = bookshop.manage("verify_ledger")
    assert done.code == 0, done.out + done.err
    counts = bookshop.python(OVERVIEW_AND_RECOUNT)
    assert counts.code == 0, counts.err
    overview, recount = json.loads(counts.out.rpartition("=>")[2])
    assert overview == recount
    assert overview["task_ids"] - earlier == len(wanted)


def test_tally_of_a_running_and_of_a_revoked_task(bookshop: Bookshop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    sent = json.loads(
        bookshop.python(
            "import json\n"
            f"running = tasks.index_slowly.apply_async(args=['r', {str(gate)!r}]).id\n"
            "killed = tasks.awkward_late.apply_async(args=['k', 'hang']).id\n"
            "print('=>' + json.dumps({'running': running, 'killed': killed}))"
        ).out.rpartition("=>")[2]
    )
    # Two jobs occupy its processes: a third must be fetched all the same.
    with bookshop.worker("--prefetch-multiplier=2"):
        began = {
            "running": has("orders.index_slowly", "running", "unresolved", executions=1),
            "killed": has(LATE, "running", "unresolved", executions=1),
        }
        assert watched(bookshop, sent, began) == began
        # Only now: it must still wait for its time when it is revoked, however long the worker took to start.
        sent["later"] = bookshop.value("tasks.awkward.apply_async(args=['l', 'return'], countdown=12).id")
        waits = {"later": has(EARLY, "waiting", "unresolved", executions=0, deliveries=1)}
        assert watched(bookshop, sent, waits) == waits
        done = bookshop.python(
            f"app.control.revoke({sent['later']!r})\n"
            f"app.control.revoke({sent['killed']!r}, terminate=True, signal='SIGKILL')"
        )
        assert done.code == 0, done.err
        gate.touch()
        ended = {
            "running": has("orders.index_slowly", "succeeded", "ok", executions=1, ended=1),
            "killed": has(LATE, "revoked", "dropped", executions=1, deliveries=1, failed=0, ended=1),
            "later": has(EARLY, "revoked", "dropped", executions=0, deliveries=1, ended=1),
        }
        assert watched(bookshop, sent, ended) == ended
    done = bookshop.manage("timeline", sent["killed"], "--json")
    shown = json.loads(done.out)
    assert (shown["task"], shown["outcome"], shown["verdict"]) == (LATE, "revoked", "dropped")
