"""The page of one task ID, and the phases of its timeline."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from tasks_demo.dashboard.pages import of_outcome
from tasks_demo.dashboard.phases import phases
from tasks_demo.dashboard.task_page import TaskPage, task_page
from tasks_demo.ledger.models import Tally
from tasks_demo.ledger.queries import timeline
from tests.integration.ledger.ledger_rows import START, append, event, killed, life, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default"]), pytest.mark.usefixtures("ledger")]


def page_of(task_id: str) -> TaskPage:
    return task_page(Tally.objects.get(task_id=task_id))


def test_phases_are_deliveries_and_the_kill_is_in_the_delivery_that_it_hit() -> None:
    append(killed("t"))
    publishing, first, second, after = page_of("t").phases
    assert (publishing.kind, first.kind, second.kind, after.kind) == (
        "publishing",
        "delivery",
        "delivery",
        "afterwards",
    )
    assert [line.kind for line in first.lines][-2:] == ["effect_done", "fault"]
    assert (first.has_fault, second.has_fault) == (True, False)
    assert (first.worker, first.main_pid, first.pids) == ("w1@test", 100, [101])
    assert (second.worker, second.main_pid, second.pids, second.redelivered) == ("w2@test", 200, [201], True)
    assert second.pause == "3.0 s"
    assert [line.kind for line in second.lines].count("effect") == 1


def test_offsets_count_from_the_first_event() -> None:
    append(killed("t"))
    fault = page_of("t").kills[0]
    assert fault.offset == "20.0"
    assert fault.headline == "Killed here"
    assert "SIGKILL" in fault.what


def test_fault_that_missed_is_not_a_kill() -> None:
    rows = ok("t")
    miss = {"what": "kill-child", "point": "started", "pid": 101, "landed": False, "why": "it was gone"}
    append(rows, [event("fault", 33, task_id="t", operation="t", pattern="acks_late", detail=miss)])
    assert page_of("t").kills == []
    assert [line.tone for phase in page_of("t").phases for line in phase.lines if line.kind == "fault"] == ["missed"]


def test_delivery_whose_receipt_was_lost_says_so() -> None:
    append(life("t", "published", "started", "effect_begun"))
    delivery = page_of("t").phases[1]
    assert delivery.receipt_lost
    assert "a receipt can be lost" in page_of("t").happened


MAIN: dict[str, Any] = {"worker": "w1@test", "pid": 100}
CHILD: dict[str, Any] = {"worker": "w1@test", "pid": 101}


@pytest.mark.parametrize(
    ("events", "phases_"),
    [
        # main reports that its child died: the lost worker's failure, its revocation, its retry
        ([("received", MAIN), ("started", CHILD), ("failed", MAIN)], ["received started failed"]),
        (
            [("received", MAIN), ("started", CHILD), ("revoked", MAIN), ("acked", MAIN)],
            ["received started revoked acked"],
        ),
        ([("received", MAIN), ("started", CHILD), ("retried", MAIN)], ["received started retried"]),
        ([("received", MAIN), ("expired", MAIN), ("acked", MAIN)], ["received expired acked"]),
        # with the points that only the lab announces
        (
            [("fetched", MAIN), ("received", MAIN), ("started", CHILD), ("acking", MAIN), ("acked", MAIN)],
            ["fetched received started acking acked"],
        ),
        (
            [("fetched", MAIN), ("fetched", {**MAIN, "pid": 200}), ("received", {**MAIN, "pid": 200})],
            ["fetched", "fetched received"],
        ),
        # a pool without child processes
        (
            [("received", MAIN), ("started", MAIN), ("returned", MAIN), ("acked", MAIN)],
            ["received started returned acked"],
        ),
        ([("rejected", MAIN)], ["rejected"]),
    ],
    ids=lambda value: (
        "-".join(kind for kind, _ in value) if isinstance(value, list) and value and isinstance(value[0], tuple) else ""
    ),
)
def test_phases_assign_the_points_of_main_to_their_delivery(
    events: list[tuple[str, dict[str, Any]]], phases_: list[str]
) -> None:
    append([event(kind, number, task_id="t", operation="t", **who) for number, (kind, who) in enumerate(events)])
    deliveries = [phase for phase in phases(timeline(Tally.objects.get())) if phase.kind == "delivery"]
    assert [" ".join(line.kind for line in phase.lines) for phase in deliveries] == phases_
    assert not any(
        phase.receipt_lost for phase in deliveries if "received" in phase.points or "fetched" in phase.points
    )


@pytest.mark.parametrize(
    ("moments", "order"),
    [
        # The publisher records its publication after the worker has begun.
        ({"received": 1, "started": 2, "published": 3, "returned": 4}, "published received started returned"),
        ({"received": 1, "started": 2, "returned": 3, "published": 9}, "published received started returned"),
        ({"started": 1, "published": 2}, "published started"),
        # All at the same moment, recorded in another order.
        (
            dict.fromkeys(["acked", "returned", "started", "received", "published"], 1),
            "published received started returned acked",
        ),
        ({"effect": 0, "published": 1, "received": 2}, "effect published received"),
    ],
)
def test_timeline_is_in_the_order_of_cause_though_clocks_race(moments: dict[str, int], order: str) -> None:
    append([event(kind, after, task_id="t", operation="t", worker="w") for kind, after in moments.items()])
    steps = list(timeline(Tally.objects.get()))
    assert " ".join(step.kind for step in steps) == order
    assert {step.kind: round(step.after_ms) for step in steps} == {
        kind: after - min(moments.values()) for kind, after in moments.items()
    }


def test_phases_put_each_publication_before_its_delivery() -> None:
    kinds = ["published", "received", "started", "received", "started", "published", "published"]
    append([event(kind, number, task_id="t", operation="t", worker="w") for number, kind in enumerate(kinds)])
    order = "published received started published received started published"
    assert " ".join(step.kind for step in timeline(Tally.objects.get())) == order


def test_phases_separate_two_deliveries_to_one_worker() -> None:
    same: dict[str, Any] = {"task_id": "t", "operation": "t", "pattern": "acks_early", "books": "bank", "worker": "w"}
    append(
        [
            event("received", 0, pid=1, **same),
            event("received", 1, pid=1, **same),
            event("started", 2, pid=2, **same),
            event("started", 3, pid=3, **same),
            event("returned", 4, pid=3, **same),
            event("returned", 5, pid=2, **same),
        ]
    )
    first, second = phases(timeline(Tally.objects.get()))
    assert [line.kind for line in first.lines] == ["received", "started", "returned"]
    assert (first.pids, second.pids) == ([2], [3])


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (lost("t", pattern="acks_early"), "and still acks_early kept its promise: at-most-once allows that"),
        (lost("t", pattern="acks_late"), "The promise of acks_late was broken"),
        (killed("t", pattern="acks_late"), "and still acks_late kept its promise: at-least-once allows that"),
        (killed("t", pattern="dedup_lock"), "The promise of dedup_lock was broken"),
        (ok("t"), "The promise was kept."),
        (life("t", "published", "received"), "is not known yet: no delivery of it has come to an end"),
        (ok("t", books=""), "As far as its executions tell, the promise was kept"),
        (ok("t", pattern="someone_elses"), "There is no promise to keep or to break"),
    ],
    ids=["lost allowed", "lost broken", "twice allowed", "twice broken", "ok", "open", "no books", "no pattern"],
)
def test_promise_and_outcome_in_words(client: Client, admin_client: Client, rows: Any, verdict: str) -> None:
    append(rows)
    assert verdict in page_of("t").outcome
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert verdict in page


def test_task_page_shows_counts_events_workers_and_the_kill(admin_client: Client) -> None:
    append(killed("t", run="r:acks_late/kill-main"))
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "2 deliveries 2 executions 2 effects" in words
    assert "Killed here fault pid 100" in words
    assert words.index("effect_done") < words.index("Killed here") < words.index("Delivery 2")
    assert "w1@test" in words
    assert "pool pid 201" in words
    assert "number 1: amount 1999, account customer-1" in words
    assert page.split('id="content-main"')[1].count("<form") == 1, "the button that reads the books"


def test_effects_of_the_same_operation_name_the_task_that_made_them() -> None:
    append(ok("one", operation="order/1"))
    append([event("published", 5, task_id="two", operation="order/1", pattern="acks_late", books="bank")])
    assert [(each.task_id, each.is_current) for each in page_of("two").family] == [("one", False), ("two", True)]
    assert [line.by for phase in page_of("two").phases for line in phase.lines if line.kind == "effect"] == ["one"]


def test_task_page_shows_hostile_details_as_text(admin_client: Client) -> None:
    same = {"task_id": "t", "operation": "t", "pattern": "acks_late"}
    append([event("failed", 0, **same, worker="<b>w</b>", detail={"error": "<img src=x onerror=alert(1)>" * 100})])
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert "<img src=x" not in page
    assert "<b>w</b>" not in page


def test_task_page_of_many_events_says_that_it_is_truncated(admin_client: Client) -> None:
    append(*(life("t", "received", "started") for _ in range(300)))
    response = admin_client.get("/admin/tasks_demo/tally/t/change/")
    assert "manage.py timeline" in response.content.decode()
    assert sum(len(phase.lines) for phase in response.context["task_page"].phases) == 500


def test_task_page_of_an_unknown_task_id_leads_back_to_the_list(admin_client: Client) -> None:
    for object_id in ("unknown", "_00", "_FF", "x" * 10_000, "..", "%ED%A0%80", "%00"):
        response = admin_client.get(f"/admin/tasks_demo/tally/{object_id}/change/", follow=True)
        assert response.status_code == 200, object_id[:20]
        assert "knows no task ID" in response.content.decode(), object_id[:20]


def test_task_page_asks_a_bounded_number_of_queries(
    admin_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    append(killed("t"), *(ok(f"sibling-{number:02}", operation="t") for number in range(20)))
    with django_assert_max_num_queries(12):
        page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert "There are more" in page
    assert page.count("sibling-") > 10


def test_task_page_names_the_point_of_the_kill_and_the_pattern_that_would_have_helped(admin_client: Client) -> None:
    append(killed("t"))
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert "The kill hit it at effect_done: the effect had happened and the message was not acknowledged" in page
    assert 'href="#pattern-dedup_lock"' in page
    assert 'id="pattern-dedup_lock"' in page
    assert 'class="kill-line"' in page
    append(ok("fine"))
    assert "What to use instead" not in admin_client.get("/admin/tasks_demo/tally/fine/change/").content.decode()


def test_job_that_is_lost_neither_waits_nor_runs_any_more(admin_client: Client) -> None:
    done = life("done", "published", "received", "started", "effect", "settled", pattern="acks_early")
    append(lost("killed"), life("never-received", "published", "settled"), life("runs", "received", "started"), done)
    words = {task_id: page_of(task_id).outcome_badge.word for task_id in ("killed", "never-received", "runs", "done")}
    assert words == {"killed": "was running", "never-received": "was waiting", "runs": "running", "done": "was running"}
    assert {row.task_id for row in of_outcome(Tally.objects.all(), "running")} == {"runs"}
    assert "was running" in admin_client.get("/admin/tasks_demo/tally/?verdict=lost").text


def test_task_page_shows_times_in_the_zone_of_the_user_and_dates_of_long_jobs(
    admin_client: Client, settings: Settings
) -> None:
    settings.TIME_ZONE = "Asia/Kathmandu"
    append(
        [
            event("published", 0, task_id="t", operation="t"),
            event("returned", 2 * 86_400_000, task_id="t", operation="t"),
        ]
    )
    append(ok("short"))
    there = zoneinfo.ZoneInfo("Asia/Kathmandu")
    begun, ended = (datetime.datetime.fromtimestamp(START + days * 86_400, there) for days in (0, 2))
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert f">{begun:%Y-%m-%d %H:%M:%S}." in page
    assert f">{ended:%Y-%m-%d %H:%M:%S}." in page
    assert f">{begun:%H:%M:%S}." in admin_client.get("/admin/tasks_demo/tally/short/change/").content.decode()


def test_pid_is_shown_as_a_number_to_copy_in_any_locale(admin_client: Client, settings: Settings) -> None:
    settings.USE_THOUSAND_SEPARATOR, settings.LANGUAGE_CODE = True, "fr"
    same: dict[str, Any] = {"task_id": "t", "worker": "w1@test"}
    append([event("received", 0, pid=1234567, **same), event("started", 1, pid=7654321, **same)])
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").text
    assert "main pid <code>1234567</code>" in page
    assert "pid 7654321" in page
    assert not re.search(r"1\W234\W567|7\W654\W321", page)
