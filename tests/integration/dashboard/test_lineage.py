"""The tree of a job: what a real chain and a group leave in the ledger, and what the page makes of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import chain, group
from django.test import Client

from tasks_demo.dashboard import lineage
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.ledger.models import Event
from tests.integration.ledger.ledger_rows import append, event, life, ok
from tests.support import STATE, Home, Worker, databases_of_tests, until

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


def charge(pattern: str) -> Any:
    return CHARGES[pattern].si(customer="c", amount=1)


def shape(node: lineage.Node) -> list[Any]:
    """Task IDs as nested lists."""
    return [node.task_id, *map(shape, node.children)]


def test_lineage_of_a_real_chain_that_ends_in_a_group(
    home: Home, redis_url: str, bank_url: str, client: Client
) -> None:
    env = {**databases_of_tests(), "REDIS_URL": redis_url, "BANK_URL": bank_url}
    with Worker(home, STATE / "lineage-worker.log", env, concurrency=1):
        sent = chain(
            charge("acks_late"), charge("dedup_lock"), group(charge("acks_early"), charge("acks_late"))
        ).apply_async()
        branches = sorted(each.id for each in sent.results)
        middle, first = sent.parent.id, sent.parent.parent.id
        everyone = [first, middle, *branches]
        until(lambda: Event.objects.filter(task_id__in=everyone, kind="acked").count() == 4, "the end of all", 60)
    found = lineage.lineage(middle)
    assert found
    assert (found.truncated, found.top.task_id, found.top.children[0].is_current) == (False, first, True)
    first_id, (middle_id, *others) = shape(found.top)
    assert (first_id, middle_id, sorted(each for (each,) in others)) == (first, middle, branches)
    last = lineage.lineage(branches[0])
    assert last
    assert shape(last.top) == [first, [middle, [branches[0]]]]
    assert {node.badge.word for node in (last.top, last.top.children[0]) if node.badge} <= {"ok", "unresolved"}


def published(task_id: str, parent: str, after_ms: float = 20.0) -> list[Any]:
    """A publication by ``parent``."""
    detail = {"outcome": "ok", "parent": parent, "root": parent}
    return [event("published", after_ms, task_id=task_id, operation=task_id, detail=detail)]


def test_lineage_is_on_the_page_as_text_and_only_where_there_is_one(admin_client: Client) -> None:
    hostile = "<script>alert(1)</script>"
    append(ok("alone"), ok("parent"), published("child", "parent"), published(hostile, "parent"))
    page = admin_client.get("/admin/tasks_demo/tally/parent/change/").content.decode()
    tree = page[page.index("Published by, and publishes") : page.index("What happened</h2>")]
    assert re.findall(r"<code[^>]*>([^<]*)</code>", tree) == [
        "parent",
        "child",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ]
    assert "Published by" not in admin_client.get("/admin/tasks_demo/tally/alone/change/").content.decode()


def test_lineage_ends_where_headers_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    append(ok("a"), published("a", "b"), ok("b"), published("b", "a"), published("c", "c"))
    found = lineage.lineage("a")
    assert found
    assert shape(found.top) == ["b", ["a", ["b"]]]
    assert lineage.lineage("c") is None
    append(*(published(f"n{number}", f"n{number + 1}") for number in range(15)))
    found = lineage.lineage("n0")
    assert found
    assert found.truncated
    assert found.top.task_id == f"n{lineage.MOST_BEFORE}"


def test_lineage_reads_a_bounded_part_of_the_ledger(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    append(life("parent", "published", "received", "started"), published("near", "parent"))
    append(*(ok(f"other-{number}") for number in range(4)), published("far", "parent"))
    monkeypatch.setattr(lineage, "AFTER_ITS_START", 10)
    monkeypatch.setattr(lineage, "AROUND_ITS_END", 5)
    with django_assert_max_num_queries(5):
        found = lineage.lineage("parent")
    assert found
    assert shape(found.top) == ["parent", ["near"]]
