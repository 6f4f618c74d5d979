"""CSV and JSON of what the list's filters let through."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Iterable
from io import StringIO
from typing import Any, cast
from urllib.parse import quote

import pytest
from django.http import StreamingHttpResponse
from django.test import Client

from tasks_demo.dashboard import export, filters, search
from tasks_demo.ledger.models import Tally
from tests.integration.ledger.ledger_rows import append, killed, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default"]), pytest.mark.usefixtures("ledger")]

LIST = "/admin/tasks_demo/tally/"


def downloaded(client: Client, form: str, query: str = "") -> str:
    """The body of an export."""
    response = cast(StreamingHttpResponse, client.get(f"{LIST}export.{form}{query}"))
    assert response.status_code == 200
    assert response.streaming
    assert response["Content-Disposition"] == f'attachment; filename="task-ids.{form}"'
    return b"".join(cast(Iterable[bytes], response)).decode()


def as_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline="")))


def test_export_holds_the_filtered_rows_latest_first_in_both_formats(admin_client: Client) -> None:
    append(ok("fine"), killed("twice", run="r1:acks_late/kill-main"), lost("gone", pattern="acks_early"))
    everything: list[dict[str, Any]] = json.loads(downloaded(admin_client, "json"))
    assert {row["task_id"] for row in everything} == {"fine", "twice", "gone"}
    (row,) = json.loads(downloaded(admin_client, "json", "?executions=2%2B"))
    assert (row["task_id"], row["effects"], row["worker"]) == ("twice", 2, "w2@test")
    assert (row["run"], row["broken"]) == ("r1:acks_late/kill-main", False)
    (line,) = as_rows(downloaded(admin_client, "csv", "?verdict=lost&pattern=acks_early"))
    assert (line["task_id"], line["effects"], line["verdict"]) == ("gone", "0", "lost")
    assert json.loads(downloaded(admin_client, "json", "?verdict=parked")) == []
    assert as_rows(downloaded(admin_client, "csv", "?verdict=parked")) == []


def test_export_is_complete_where_the_page_is_truncated(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_FOUND", 2)
    monkeypatch.setattr(filters, "MOST_OF_A_WORKER", 2)
    monkeypatch.setattr(export, "CHUNK", 3)
    append(*(ok(f"t{n:02}") for n in range(10)))
    expected = [f"t{n:02}" for n in range(10)]
    for query in ("", "?q=t", "?worker=w1@test", "?q=w1"):
        assert [row["task_id"] for row in json.loads(downloaded(admin_client, "json", query))] == expected, query


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"]
ODD = ["<script>alert(1)</script>", 'quote"comma,', "line\nend", "\u202eright to left", "x" * 255]


def test_export_spreadsheet_runs_no_cell(admin_client: Client) -> None:
    append(*(ok(task_id, operation=f"o{number}") for number, task_id in enumerate([*FORMULAS, *ODD])))
    stored = set(Tally.objects.values_list("task_id", flat=True))
    cells = {row["task_id"] for row in as_rows(downloaded(admin_client, "csv"))}
    assert {f"'{formula}" for formula in FORMULAS} <= cells
    assert cells - {f"'{formula}" for formula in FORMULAS} == stored - set(FORMULAS)
    assert {row["task_id"] for row in json.loads(downloaded(admin_client, "json"))} == stored


@pytest.mark.parametrize("query", ["q=%00", "q=%ED%A0%80", "since=x", "worker=%00", "after=x", "task_id__regex=("])
def test_export_hostile_parameters_are_not_an_error(admin_client: Client, query: str) -> None:
    append(ok("a"))
    json.loads(downloaded(admin_client, "json", f"?{query}"))


def test_export_page_links_to_what_it_shows(admin_client: Client) -> None:
    append(ok("a"), ok("b"))
    page = admin_client.get(f"{LIST}?q={quote('a')}&first=problems").content.decode()
    assert 'href="/admin/tasks_demo/tally/export.csv?q=a"' in page


def test_export_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHUNK", 50)
    append(*(ok(f"t{n:04}") for n in range(600)))
    answer = cast(StreamingHttpResponse, export.response(Tally.objects.all(), "csv"))
    lines = iter(cast(Iterable[bytes], answer))
    for _ in range(100):
        next(lines)
    tracemalloc.start()
    try:
        for _ in range(100):
            next(lines)
        tracemalloc.reset_peak()
        early = tracemalloc.get_traced_memory()[1]
        peak = max(tracemalloc.get_traced_memory()[1] for _ in lines)
    finally:
        tracemalloc.stop()
    assert peak < early + 400_000
