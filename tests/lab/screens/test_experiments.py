"""The experiments in the dashboard: who may do what, what a browser cannot do, and real runs from start to end.

Over 300 lines: the screens share the runs that one experiment leaves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from tasks_demo.demo.bank.client import BankClient
from tasks_demo.demo.stack.processes import project_environment
from tasks_demo.lab.processes.run_folder import is_alive, lock
from tasks_demo.lab.reports import document
from tasks_demo.lab.reports.text import table
from tasks_demo.lab.screens import run_process
from tasks_demo.lab.screens.run_process import RequestRefused, stop
from tasks_demo.lab.screens.stored_runs import find, latest
from tasks_demo.leases.process import child_process
from tasks_demo.ledger import rollups
from tasks_demo.ledger.models import Tally
from tests.lab.reports.results import good
from tests.lab.screens.run_folders import NAME, ROOT, laid, person, use
from tests.support import until

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]

VIEW, RUN = "view_experiment", "run_experiment"
TINY = {"pattern": ["acks_late"], "fault": ["kill-child"], "tasks": "20", "seed": "7"}
LONG = {"pattern": ["acks_late", "dedup_lock"], "fault": ["kill-main"], "tasks": "300", "seed": "7"}


@pytest.fixture
def state(settings: Settings, monkeypatch: pytest.MonkeyPatch, short: Path) -> Path:
    use(settings, monkeypatch, short)
    return short


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("admin", password="p"))
    return client


# -- who may do what ---------------------------------------------------------------------------------------------------------

PAGES = ("", "new/", "start/", "compare/", f"{NAME}/", f"{NAME}/stop/", f"{NAME}/report/json/")
ONLY_RUN = {"new/", "start/", f"{NAME}/stop/"}


def test_experiments_pages_need_their_permissions(state: Path, settings: Settings) -> None:
    laid(state)
    nobody, other, viewer, runner = Client(), person("view_tally"), person(VIEW), person(VIEW, RUN)
    for page in PAGES:
        assert nobody.get(ROOT + page).headers["Location"].startswith("/admin/login/"), page
        assert other.get(ROOT + page).status_code == 403, page
        assert (viewer.get(ROOT + page).status_code == 403) == (page in ONLY_RUN), page
        assert runner.get(ROOT + page).status_code != 403, page
    settings.TASKS_DEMO_LAB_ENABLED = False
    assert {runner.get(ROOT + page).status_code for page in PAGES} == {404}


def test_experiments_link_is_shown_to_those_who_may_follow_it(state: Path, settings: Settings) -> None:
    address = "/admin/tasks_demo/tally/overview/"
    assert ROOT not in person("view_tally").get(address).content.decode()
    both = person("view_tally", VIEW)
    assert ROOT in both.get(address).content.decode()
    settings.TASKS_DEMO_LAB_ENABLED = False
    assert ROOT not in both.get(address).content.decode()


def test_experiments_page_is_off_unless_switched_on(state: Path, settings: Settings, admin: Client) -> None:
    del settings.TASKS_DEMO_LAB_ENABLED
    assert admin.get(ROOT).status_code == 404


def test_experiments_page_offers_a_viewer_nothing_to_start_or_stop(state: Path) -> None:
    folder = laid(state, exit=None, phase="running", request={"by": "x", "process": "p"})
    held = lock(folder)
    assert held is not None
    viewer = person(VIEW)
    assert "new/" not in viewer.get(ROOT).content.decode()
    assert "stop/" not in viewer.get(f"{ROOT}{NAME}/").content.decode()
    os.close(held)


# -- what a browser cannot do ------------------------------------------------------------------------------------------------


def test_get_starts_and_stops_nothing(state: Path, admin: Client) -> None:
    assert admin.get(f"{ROOT}start/", TINY).status_code == 405
    assert "The plan" in admin.get(f"{ROOT}new/", TINY).content.decode()
    assert not (state / "runs").exists()


def test_experiments_page_starts_nothing_without_a_token(state: Path) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("admin", password="p"))
    assert strict.post(f"{ROOT}start/", TINY).status_code == 403
    assert not (state / "runs").exists()


def test_experiments_page_starts_nothing_that_is_out_of_bounds(state: Path, admin: Client) -> None:
    answer = admin.post(f"{ROOT}start/", {**TINY, "tasks": "100000"})
    assert answer.status_code == 400
    assert "less than or equal to 500" in answer.content.decode()
    assert not (state / "runs").exists()


@pytest.mark.parametrize("name", ["latest", "page", "x", "20260102T030405-seed7-0123456780"])
def test_experiments_page_exists_only_for_a_run(state: Path, admin: Client, name: str) -> None:
    folder = laid(state)
    (state / "runs" / "latest").symlink_to(folder.name)
    (state / "runs" / "20260102T030405-seed7-0123456780").symlink_to("/etc")
    for page in (f"{name}/", f"{name}/stop/", f"{name}/report/events/", f"compare/?one={name}&other={NAME}"):
        assert admin.get(ROOT + page).status_code == 404


def test_experiments_page_signals_a_process_only_if_its_start_is_the_recorded_one(state: Path) -> None:
    program = "import signal; signal.signal(2, signal.SIG_DFL); print(flush=True); signal.pause()"
    victim = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"\n", "it runs"
        known = str(child_process(victim.pid, NAME))
        where, pid, start, task = known.split(" ")
        folder = laid(state, request={"process": " ".join((where, pid, str(int(start) + 1), task))})
        with pytest.raises(RequestRefused, match="has ended already"):
            stop(folder)
        held = lock(folder)
        assert held is not None
        for other in (f"{where} {pid} {int(start) + 1} {task}", f"elsewhere {pid} {start} {task}", "", "x",
                      f"{where} {pid} {start} {NAME[:-1]}0"):  # fmt: skip
            (folder / "request.json").write_text(json.dumps({"process": other}), encoding="utf-8")
            with pytest.raises(RequestRefused):
                stop(folder)
        assert victim.poll() is None
        (folder / "request.json").write_text(json.dumps({"process": known}), encoding="utf-8")
        stop(folder)
        os.close(held)
        assert victim.wait(10) == -signal.SIGINT
    finally:
        victim.kill()
        victim.communicate()


# -- what is shown -----------------------------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script>\u202e\0\n" + "x" * 10_000


def test_experiments_page_shows_hostile_texts_as_text(state: Path, admin: Client) -> None:
    laid(state, message=NASTY, exit=4, request={"by": NASTY, "command": NASTY, "process": ""})
    for page in ("", f"{NAME}/"):
        text = admin.get(ROOT + page).content.decode()
        assert "<script>alert" not in text
        assert "not run" in text


def test_states_of_runs(state: Path, admin: Client) -> None:
    for number, (changes, word) in enumerate(
        [({"exit": 0}, "as predicted"), ({"exit": 1}, "not as predicted"), ({"exit": 130}, "stopped"),
         ({"exit": None, "phase": "running"}, "crashed"), ({"exit": 3}, "unknown")]
    ):  # fmt: skip
        name = f"20260102T03040{number}-seed7-0123456789"
        laid(state, name, **changes)
        assert word in admin.get(f"{ROOT}{name}/").content.decode(), changes
    (state / "runs" / name / "status.json").write_text("{broken", encoding="utf-8")
    assert "crashed" in admin.get(f"{ROOT}{name}/").content.decode()


def test_experiments_list_is_bounded_and_says_so(
    state: Path, admin: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    assert "No experiment yet" in admin.get(ROOT).content.decode()
    for number in range(52):
        laid(state, f"20260102T0304{number:02}-seed7-0123456789")
    with django_assert_max_num_queries(4):
        text = admin.get(ROOT).content.decode()
    assert "Only the latest 50 are shown" in text
    assert (len(latest()[0]), latest()[0][0].name) == (50, "20260102T030451-seed7-0123456789")


def test_overview_shows_the_last_experiments(state: Path, settings: Settings, admin: Client) -> None:
    def overview(client: Client) -> str:
        return client.get("/admin/tasks_demo/tally/overview/").content.decode()

    assert "None yet" in overview(admin)
    for number in range(7):
        laid(state, f"20260102T03040{number}-seed7-0123456789")
    text = overview(admin)
    assert re.findall(rf'href="{ROOT}(20[^"]*)/"', text) == [
        f"20260102T03040{number}-seed7-0123456789" for number in (6, 5, 4, 3, 2)
    ]
    assert "All experiments" in text
    assert "Last experiments" not in overview(person("view_tally"))
    settings.TASKS_DEMO_LAB_ENABLED = False
    assert "Last experiments" not in overview(admin)


def test_experiments_page_names_a_folder_that_cannot_be_used(state: Path, admin: Client) -> None:
    (state / "runs").write_text("a file", encoding="utf-8")
    answer = admin.post(f"{ROOT}start/", TINY)
    assert answer.status_code == 409
    assert "Nothing was started" in answer.content.decode()
    assert "cannot be read" in admin.get(ROOT).content.decode()


def test_experiments_page_removes_its_own_old_runs_and_keeps_others(state: Path) -> None:
    names = [f"20260102T0304{number:02}-seed7-0123456789" for number in range(run_process.MOST_KEPT + 2)]
    for name in names:
        laid(state, name, request={"by": "x"})
    typed = laid(state, "20250102T030405-seed7-0123456789")
    running = lock(state / "runs" / names[0])
    run_process._forget_oldest(state / "runs")
    left = {path.name for path in (state / "runs").iterdir()}
    assert left == {typed.name, names[0], *names[3:]}
    assert running is not None
    os.close(running)


def test_reports_and_comparison_are_those_of_the_result(
    state: Path, admin: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    result = good() | {"configuration": {"run": "0123456789", "plan": []}}
    other = "20260102T030406-seed7-0123456789"
    for name in (NAME, other):
        (laid(state, name) / "result.json").write_text(document.as_json(result), encoding="utf-8")
    for kind, write in (
        ("json", document.as_json), ("junit", document.as_junit), ("markdown", document.as_markdown), ("html", document.as_html),
    ):  # fmt: skip
        answer = admin.get(f"{ROOT}{NAME}/report/{kind}/")
        assert answer.content.decode() == write(result)
        assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{NAME}.')
    assert admin.get(f"{ROOT}{NAME}/report/pickle/").status_code == 404
    assert admin.get(f"{ROOT}{NAME}/report/events/").status_code == 404
    with django_assert_max_num_queries(10):
        assert shown(admin.get(f"{ROOT}{NAME}/").content.decode()) == [list(row) for row in table(result)[1]]
    text = admin.get(f"{ROOT}compare/", {"one": NAME, "other": other}).content.decode()
    assert text.count('<tr><th scope="row">') == len(result["cells"])
    assert "differs" not in text


def shown(text: str) -> list[list[str]]:
    """The rows of the matrix on a page, as text."""
    body = re.search(r'class="matrix">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", body.group(1) if body else "", re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


# -- real runs ---------------------------------------------------------------------------------------------------------------


def started(admin: Client, choices: dict[str, Any]) -> str:
    answer = admin.post(f"{ROOT}start/", choices)
    assert answer.status_code == 302, answer.content.decode()
    return answer.headers["Location"].removeprefix(ROOT).rstrip("/")


def of_pattern(admin: Client) -> dict[str, int]:
    """The numbers in the overview's row of the only pattern."""
    text = admin.get("/admin/tasks_demo/tally/overview/").content.decode()
    row = re.search(r'<tr class="of-pattern">.*?</tr>', text, re.DOTALL)
    cells = re.findall(r'data-label="([^"]*)">(.*?)</td>', row.group() if row else "", re.DOTALL)
    return {label: int(re.sub(r"<[^>]*>", "", cell)) for label, cell in cells}


#: A web server that starts an experiment and is killed with everything in its process group.
SERVER = """
import os, signal, sys
import django; django.setup()
from django.http import QueryDict
from tasks_demo.lab.screens.choices import Choices
from tasks_demo.lab.screens.run_process import start
form = Choices(QueryDict(sys.argv[1]))
assert form.is_valid(), form.errors
print(start(form, "somebody"), flush=True)
os.killpg(os.getpgrp(), signal.SIGKILL)
"""


def started_by_a_server_that_is_killed(choices: dict[str, Any]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SERVER, urlencode(choices, doseq=True)],
        env=project_environment(), start_new_session=True, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def poll(admin: Client, name: str, mark: str = "") -> Any:
    return admin.get(f"{ROOT}{name}/", headers={"HX-Request": "true", "Live-Mark": mark})


@pytest.mark.timeout(180)
def test_from_the_start_to_the_verdict(
    state: Path, admin: Client, bank_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_URL", bank_url)
    name = started(admin, TINY)
    seen = []

    def over() -> bool:
        answer = poll(admin, name, seen[-1] if seen else "")
        seen.append(answer.headers["Live-Mark"])
        assert answer.status_code in (200, 204)
        return "Live-Done" in answer.headers

    until(over, "the end of the experiment", 120)
    assert len(set(seen)) > 2, "the page changed while it ran"
    run = find(name)
    assert run is not None
    assert (run.state, run.status["message"]) == ("finished", ""), run.status
    result = json.loads(admin.get(f"{ROOT}{name}/report/json/").content)
    assert result["seed"] == 7
    page = admin.get(f"{ROOT}{name}/").content.decode()
    assert shown(page) == [list(row) for row in table(result)[1]]
    assert "as predicted" in page
    (cell,) = result["cells"]
    assert page.count("<svg viewBox") == cell["duplicated"] == 1, "the job that was charged twice is drawn"
    assert (run.injected, run.done, cell["kills"]["landed"]) == (2, 20, 2)
    tallies = Tally.objects.filter(run=f"{run.run_id}:acks_late/kill-child")
    counted = Counter("2+" if tally.effects >= 2 else str(tally.effects) for tally in tallies)
    assert {count: counted[count] for count in ("0", "1", "2+")} == cell["effects"]
    charges = Counter(debit.reference for debit in BankClient(bank_url).debits())
    asked = Counter(
        "2+" if charges[each] >= 2 else str(charges[each]) for each in {tally.operation for tally in tallies}
    )
    assert {count: asked[count] for count in ("0", "1", "2+")} == cell["effects"], "the bank's books"
    wanted = {f"{what} {count}": cell[what][count] for what in ("executions", "effects") for count in ("0", "1", "2+")}
    wanted |= {"task IDs": 20, "lost": cell["lost"]}
    assert rollups.fold(5)
    assert of_pattern(admin).items() >= wanted.items(), "the same numbers on the overview"
    events = b"".join(admin.get(f"{ROOT}{name}/report/events/").streaming_content)  # type: ignore[attr-defined]
    assert b'"kind":"quiescent"' in events.replace(b": ", b":")
    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.user.username) == (name, "admin")
    assert "--tasks 20 --seed 7" in entry.change_message


@pytest.mark.timeout(180)
def test_experiments_page_runs_one_experiment_at_a_time_and_can_stop_it(state: Path, admin: Client) -> None:
    first = started(admin, LONG)
    answer = admin.post(f"{ROOT}start/", TINY)
    assert (answer.status_code, "is running already" in answer.content.decode()) == (409, True)

    request = json.loads((state / "runs" / first / "request.json").read_text(encoding="utf-8"))
    os.kill(int(request["process"].split(" ")[1]), signal.SIGKILL)
    until(lambda: not is_alive(state / "runs" / first), "the end of the killed experiment")
    assert "crashed" in admin.get(f"{ROOT}{first}/").content.decode()

    # The dead holder does not keep the lock. The next one outlives the web server that started it.
    second = started_by_a_server_that_is_killed(LONG)
    until(lambda: (run := find(second)) and run.phase == "running" and run.done, "its first jobs", 60)
    assert "have ended" in admin.get(f"{ROOT}{second}/stop/").content.decode()
    assert is_alive(state / "runs" / second), "asking stops nothing"
    assert admin.post(f"{ROOT}{second}/stop/").status_code == 302
    until(lambda: not is_alive(state / "runs" / second), "the end of the stopped experiment", 60)
    page = admin.get(f"{ROOT}{second}/").content.decode()
    assert "stopped" in page
    assert "Stop…" not in page
    assert "Stopped" in LogEntry.objects.latest("pk").change_message
    shutil.rmtree(state / "runs" / first)


def test_experiments_page_uses_no_name_of_a_run_twice(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tasks_demo.lab.management.commands.experiment import Command

    laid(state)
    for name, said in ((NAME, "was run already"), ("../x", "is not the name of a run")):
        with pytest.raises(SystemExit) as left:
            Command().run_from_argv(["manage.py", "experiment", "--tasks", "5", "--run", name])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
