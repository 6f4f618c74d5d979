"""/admin/tasks_demo_records/parked/ and ``manage.py quarantine``: who may view, who may decide, and the audit record.

Over 300 lines: the same decisions by page and by command, for each kind of user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client

from tasks_demo.dashboard import acts
from tasks_demo.leases.redis_client import connect
from tasks_demo.management.commands.quarantine import Command
from tasks_demo.records.models import Decision, Parked
from tests.integration.ledger.ledger_rows import append, life
from tests.integration.quarantine.parked_rows import QUEUE, lying
from tests.support import Home

pytestmark = pytest.mark.usefixtures("records")

LIST = "/admin/tasks_demo_records/parked/"


@pytest.fixture
def records(ledger: None) -> Iterator[None]:
    """The tables that these tests fill, emptied afterwards; faster than a flush of all databases."""
    yield
    for model in (Decision, Parked, LogEntry, Session, User):
        model.objects.all().delete()


@pytest.fixture
def queue(redis_url: str) -> Iterator[Callable[[], int]]:
    """The number of messages in the queue that nobody consumes."""
    with connect(redis_url, 5.0) as client:
        yield lambda: int(client.llen(QUEUE))
        client.delete(QUEUE)


@pytest.fixture
def no_broker() -> Iterator[None]:
    app = current_app._get_current_object()
    app.conf.broker_write_url = "redis+socket:///nobody/listens/here.sock"
    yield
    app.conf.broker_write_url = app.conf.broker_url


Run = Callable[..., tuple[Any, str, str]]


def somebody(client: Client, name: str, *permissions: str) -> Client:
    user = User.objects.create_user(name, password="p", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


@pytest.fixture
def viewer(client: Client) -> Client:
    return somebody(client, "viewer", "view_parked")


@pytest.fixture
def decider(client: Client) -> Client:
    return somebody(client, "decider", "view_parked", "requeue_parked", "discard_parked")


def page(row: Parked) -> str:
    return f"{LIST}{row.pk}/change/"


def choose(client: Client, act: str, *rows: Parked, **more: str) -> Any:
    """Post the selection."""
    data = {"action": f"{act}_selected", "_selected_action": [str(row.pk) for row in rows], "index": "0", **more}
    return client.post(LIST, data)


def decide(client: Client, act: str, *rows: Parked, why: str = "because") -> Any:
    """Post the selection, then the form of the page of confirmation."""
    return confirm(client, choose(client, act, *rows), why)


def confirm(client: Client, asked: Any, why: str = "because") -> Any:
    (sure,) = re.findall(r'name="sure" value="([^"]+)"', asked.content.decode()) or [""]
    return client.post(f"{LIST}act/", {"sure": sure, "why": why})


def text(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def states() -> list[str]:
    return list(Parked.objects.order_by("id").values_list("state", flat=True))


# -- viewing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [LIST, f"{LIST}1/change/"])
def test_strangers_are_sent_to_the_login_and_staff_needs_the_permission(client: Client, address: str) -> None:
    assert client.get(address).headers["Location"] == f"/admin/login/?next={address}"
    assert somebody(client, "clerk", "view_tally").get(address).status_code == 403


def test_what_waits_for_a_decision_comes_first(viewer: Client) -> None:
    rows = [lying(state=state) for state in ("parked", "discarded", "parked", "requeued")]
    shown = [row.pk for row in viewer.get(LIST).context["cl"].result_list]
    assert shown == [rows[2].pk, rows[0].pk, rows[3].pk, rows[1].pk]


def test_filter_and_search(viewer: Client) -> None:
    rows = [lying(task="a.b", operation="order-17"), lying(task="c.d", state="requeued")]

    def found(query: str) -> list[int]:
        return [row.pk for row in viewer.get(LIST + query).context["cl"].result_list]

    assert found("?state__exact=requeued") == [rows[1].pk]
    assert found("?task=a.b") == [rows[0].pk]
    assert found("?q=order-1") == [rows[0].pk]
    assert found(f"?q={rows[1].task_id[:13]}") == [rows[1].pk]
    assert found("?q=x%27%3B--") == []


def test_page_shows_all_that_a_decision_needs(viewer: Client) -> None:
    history = [{"at": "2026-01-02T03:04:05.678901+00:00", "worker": "w1@<b>host</b>", "pid": 1234567}]
    note = {"grüße": "<script>", "nul": "\0", "half": "\ud800"}
    row = lying(history=history, reason="Begun once <and> never ended.", note=note)
    seen = text(viewer.get(page(row)))
    for part in (
        row.task_id, "waits for a decision", "Begun once &lt;and&gt; never ended", "2026-01-02 03:04:05.678901 UTC",
        "w1@&lt;b&gt;host&lt;/b&gt;", "1234567", "grüße", "&lt;script&gt;", "\\x00", "\\ud800", QUEUE,
    ):  # fmt: skip
        assert part in seen, part
    assert "Requeue…" not in seen, "a viewer decides nothing"


def test_message_that_cannot_be_read_is_shown_as_it_is(viewer: Client) -> None:
    assert "The message cannot be read (DecodeError" in text(viewer.get(page(lying(message='{"broken'))))


def test_page_that_is_not_there(viewer: Client) -> None:
    for number in ("0", "x", "99999999999999999999"):
        response = viewer.get(f"{LIST}{number}/change/")
        assert response.headers["Location"] == LIST


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nothing_is_edited_added_or_deleted(decider: Client, method: str) -> None:
    row = lying()
    assert getattr(decider, method)(page(row)).status_code == 403
    assert getattr(decider, method)(f"{LIST}add/").status_code == 403
    assert getattr(decider, method)(f"{LIST}{row.pk}/delete/").status_code == 403
    assert states() == ["parked"]


# -- deciding --------------------------------------------------------------------------------------------------------


def test_requeue_asks_first_then_publishes_and_keeps_who_and_why(decider: Client, queue: Callable[[], int]) -> None:
    row = lying()
    asked = text(choose(decider, "requeue", row))
    assert "Requeue: 1 message" in asked
    assert row.task_id in asked
    assert (states(), queue()) == (["parked"], 0)

    response = decide(decider, "requeue", row, why="the disk is back")
    assert response.headers["Location"] == page(row)
    assert (states(), queue()) == (["requeued"], 1)
    seen = text(decider.get(page(row)))
    for part in ("1 message requeued.", "was published again", "decider", "the disk is back"):
        assert part in seen, part
    assert "Requeue…" not in seen
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_id) == ("decider", str(row.pk))
    assert "1 message requeued. Why: the disk is back Filter: none." in entry.get_change_message()


def test_discard_sends_nothing_and_keeps_the_row(decider: Client, queue: Callable[[], int]) -> None:
    rows = [lying(), lying()]
    assert decide(decider, "discard", *rows).headers["Location"] == LIST
    assert (states(), queue()) == (["discarded"] * 2, 0)
    assert "2 messages discarded." in text(decider.get(LIST))
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["Discard: 2 messages"]


@pytest.mark.parametrize("why", ["", "  \n"])
def test_without_a_reason_nothing_is_done(decider: Client, queue: Callable[[], int], why: str) -> None:
    assert "Please say why" in text(decide(decider, "requeue", lying(), why=why))
    assert (states(), queue()) == (["parked"], 0)


def test_what_was_decided_meanwhile_is_left_alone(decider: Client, queue: Callable[[], int]) -> None:
    rows = [lying(), lying(), lying(state="discarded"), lying(state="requeued")]
    asked = choose(decider, "requeue", *rows)
    assert "Not possible for 2: not parked any more" in text(asked)
    Parked.objects.filter(pk=rows[0].pk).update(state="discarded")
    confirm(decider, asked)
    assert (states(), queue()) == (["discarded", "requeued", "discarded", "requeued"], 1)
    assert "1 message requeued, 1 left alone, because changed meanwhile." in text(decider.get(LIST))
    assert "nothing to discard" in text(choose(decider, "discard", *rows))


def all_that_match(client: Client, act: str, query: str, any_row: Parked) -> Any:
    data = {"action": f"{act}_selected", "_selected_action": str(any_row.pk), "select_across": "1", "index": "0"}
    return client.post(f"{LIST}{query}", data)


def test_all_that_match_are_those_that_were_counted(decider: Client, queue: Callable[[], int]) -> None:
    rows = [lying(task="a.b"), lying(task="a.b"), lying(task="c.d")]
    asked = all_that_match(decider, "requeue", "?task=a.b", rows[0])
    assert "Requeue: 2 messages" in text(asked)
    assert "Filter: task = a.b" in text(asked)
    assert (states(), queue(), LogEntry.objects.count()) == (["parked"] * 3, 0, 0), "counting changes nothing"
    lying(task="a.b")
    assert confirm(decider, asked).headers["Location"] == f"{LIST}?task=a.b"
    assert (states(), queue()) == (["requeued", "requeued", "parked", "parked"], 2), "what came later was not counted"
    said = LogEntry.objects.get().get_change_message()
    assert "2 messages requeued. Why: because Filter: task=a.b." in said


def test_form_that_is_sent_twice_acts_once(decider: Client, queue: Callable[[], int]) -> None:
    row = lying()
    asked = choose(decider, "requeue", row)
    confirm(decider, asked)
    Parked.objects.filter(pk=row.pk).update(state="parked")  # even then
    confirm(decider, asked)
    assert (queue(), LogEntry.objects.count()) == (1, 1)
    assert "sent before" in text(decider.get(LIST))


def test_form_that_was_changed_or_is_another_user_s_does_nothing(decider: Client, queue: Callable[[], int]) -> None:
    asked = choose(decider, "requeue", lying())
    (sure,) = re.findall(r'name="sure" value="([^"]+)"', asked.content.decode())
    decider.post(f"{LIST}act/", {"sure": sure[:-1], "why": "x"})
    assert "Nothing was done" in text(decider.get(LIST))
    other = somebody(Client(), "other", "view_parked", "requeue_parked")
    assert other.post(f"{LIST}act/", {"sure": sure, "why": "x"}).status_code == 403
    assert decider.get(f"{LIST}act/").status_code == 405
    assert (states(), queue()) == (["parked"], 0)


def test_batch_is_bounded_and_says_what_is_left(
    decider: Client, queue: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 2)
    rows = [lying() for _ in range(5)]
    asked = all_that_match(decider, "discard", "", rows[0])
    assert "3 more match and are left for the next time" in text(asked)
    confirm(decider, asked)
    assert states() == ["discarded"] * 2 + ["parked"] * 3
    assert "2 messages discarded, 3 left: do it again for these." in text(decider.get(LIST))


def test_each_act_has_a_permission_of_its_own(client: Client) -> None:
    row = lying()
    only = somebody(client, "only", "view_parked", "discard_parked")
    seen = text(only.get(page(row)))
    assert "Discard…" in seen
    assert "Requeue…" not in seen
    assert "Discard all that match…" in text(only.get(LIST))
    choose(only, "requeue", row)
    assert states() == ["parked"]


def test_arguments_with_declared_names_are_masked(viewer: Client, settings: Any, run: Run) -> None:
    note = {"password": "hunter2", "deep": [{"api_key": "hunter2"}], "text": "token=hunter2", "seen": "kept"}
    row = lying(note=note)
    assert "hunter2" not in (seen := text(viewer.get(page(row))))
    assert "kept" in seen
    assert "hunter2" not in run("show", row.task_id, "--json")[1]
    settings.TASKS_DEMO_MASKED = ["deed"]
    seen = text(viewer.get(page(row)))
    assert ("hunter2" in seen, "nothing" in seen) == (True, False)


@pytest.mark.parametrize("act", ["requeue", "discard"])
def test_who_may_only_look_cannot_decide(viewer: Client, queue: Callable[[], int], act: str) -> None:
    row = lying()
    for _ in (choose(viewer, act, row), decide(viewer, act, row)):
        assert (states(), queue(), LogEntry.objects.count()) == (["parked"], 0, 0)
    assert "Requeue the selected" not in text(viewer.get(LIST))


@pytest.mark.usefixtures("no_broker")
def test_with_the_broker_down_the_admin_says_so_and_nothing_changes(decider: Client) -> None:
    rows = [lying(), lying()]
    decide(decider, "requeue", *rows)
    assert states() == ["parked", "parked"]
    seen = text(decider.get(LIST))
    assert seen.count("It is still parked and nothing was changed") == 1
    assert "0 messages requeued, 2 left" in LogEntry.objects.get().get_change_message().replace(
        "no messages", "0 messages"
    )


def test_message_that_cannot_be_sent_does_not_keep_the_others_from_it(
    decider: Client, queue: Callable[[], int]
) -> None:
    asked = choose(decider, "requeue", lying(message="{"), lying())
    assert "Not possible for 1: no message can be made of it (DecodeError)" in text(asked)
    confirm(decider, asked)
    assert (states(), queue()) == (["parked", "requeued"], 1)


def test_forged_request_is_refused(decider: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = decider.cookies
    assert decide(strict, "discard", lying()).status_code == 403
    assert states() == ["parked"]


# -- manage.py quarantine --------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    def command(*arguments: str) -> tuple[Any, str, str]:
        code: Any = 0
        try:
            Command().run_from_argv(["manage.py", "quarantine", *arguments])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_without_arguments_it_lists_what_waits(run: Run) -> None:
    assert run() == (0, "No message is parked, and there is no dead letter.\n", "")
    waiting, done = lying(task="[red]x[/]"), lying(state="discarded")
    code, out, _ = run()
    assert code == 0
    assert waiting.task_id in out
    assert "[red]x[/]" in out
    assert done.task_id not in out
    assert done.task_id in run("list", "--all")[1]
    (fact,) = json.loads(run("list", "--json")[1])
    assert (fact["task_id"], fact["state"], fact["attempts"]) == (waiting.task_id, "parked", 5)


def test_show_by_the_beginning_of_a_task_id(run: Run) -> None:
    row = lying(note="\ud800", history=[{"at": "2026-01-02T03:04:05+00:00", "worker": "w1@t", "pid": 7}])
    code, out, _ = run("show", row.task_id[:20])
    assert code == 0
    for part in (row.task_id, "begun 2026-01-02T03:04:05+00:00 by w1@t, pid 7", "\\ud800", QUEUE, "of this test"):
        assert part in out, part
    (fact,) = json.loads(run("show", row.task_id, "--json")[1])
    assert fact["history"][0]["pid"] == 7
    code, _, err = run("show", "nothing-like-it")
    assert code == 1
    assert "No task ID of a parked message equals or begins with 'nothing-like-it'" in err


def test_requeue_and_discard(run: Run, queue: Callable[[], int]) -> None:
    first, second = lying(), lying()
    assert run("requeue", first.task_id, "--why", "fixed") == (0, f"{first.task_id} requeued\n", "")
    assert queue() == 1
    code, out, err = run("requeue", first.task_id, second.task_id)
    assert (code, out) == (1, f"{second.task_id} requeued\n")
    assert "1 of 2 requeued" in err
    assert list(first.decisions.values_list("decision", "why")) == [("requeue", "fixed")]
    third = lying()
    assert json.loads(run("discard", "--all", "--json")[1]) == {"discarded": [third.task_id]}
    assert states() == ["requeued", "requeued", "discarded"]
    assert queue() == 2
    code, _, err = run("discard", "--all")
    assert code == 1
    assert "nothing was done" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("requeue",), ("discard",), ("show",), ("list", "x"), ("requeue", "x", "--all"), ("show", "x", "--all"), ("drop",),
        ("requeue", "x\0"), ("show", "a\nb"),
    ],
)  # fmt: skip
def test_usage(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.usefixtures("no_broker")
def test_with_the_broker_down_the_command_says_so(run: Run) -> None:
    lying()
    code, _, err = run("requeue", "--all")
    assert code == 4
    assert "It is still parked and nothing was changed" in err
    assert states() == ["parked"]


def test_command_by_itself_and_without_its_tables(home: Home) -> None:
    listed = home.manage("quarantine", "--json")
    assert (listed.code, json.loads(listed.out)) == (4, []), "no Redis runs here"
    assert "did not list or decide its dead letters" in listed.sentence()
    unknown = home.manage("quarantine", "--database", "nowhere")
    assert (unknown.code, unknown.out) == (2, "")
    assert "nowhere" in unknown.sentence()
    elsewhere = home.manage("quarantine", "--database", "bank")
    assert elsewhere.code == 4, "that database has none of these tables"
    elsewhere.sentence()
    name = "SHOP_DATABASE_URL"
    broken = home.manage("quarantine", env={name: f"sqlite:///{home.state / 'empty.sqlite3'}"})
    assert broken.code == 4
    assert "manage.py migrate" in broken.sentence()


def test_page_of_a_task_id_leads_to_where_it_is_parked(client: Client, settings: Any) -> None:
    settings.TASKS_DEMO_BANK_URL = ""
    row = lying()
    append(life(row.task_id, "published", "received", "quarantined", "acked"))
    staff = somebody(client, "both", "view_tally", "view_parked")
    seen = staff.get(f"/admin/tasks_demo/tally/{row.task_id.replace('_', '_5F')}/change/").content.decode()
    (address,) = re.findall(r'href="([^"]+)">Where it is parked', seen)
    assert [found.pk for found in staff.get(address).context["cl"].result_list] == [row.pk]
    assert f'href="/admin/tasks_demo/tally/{row.task_id}/change/"' in staff.get(page(row)).content.decode()
