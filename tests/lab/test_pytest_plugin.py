"""The fixture ``delivery_lab``, in pytest runs of their own: of an app without Django, and of the bookshop."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.integration.servers.rabbitmq import RabbitServer, rabbitmq
from tests.snippets import pieces
from tests.support import PROJECT, STATE, Finished, finish

__all__ = ["rabbitmq"]

pytestmark = pytest.mark.timeout(420)

PLAIN, SHOP = PROJECT / "examples" / "plain_celery", PROJECT / "examples" / "bookshop"
HOW_TO, TUTORIAL = "docs/how-to/test-your-own-tasks.md", "docs/tutorial/test-a-task.md"
#: pyproject.toml registers it where the package is installed; here it is not.
PLUGIN = ("-p", "tasks_demo.lab.pytest_plugin", "-p", "no:cacheprovider")


def pytest_in(folder: Path, home: Path, text: str, *options: str, env: dict[str, str] | None = None) -> Finished:
    """Run one file of tests as its author would, in the folder of an example."""
    file = home / "test_theirs.py"
    file.write_text(text, encoding="utf-8")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DJANGO_", "TASKS_DEMO_LEDGER", "PYTEST"))
    }
    (home / "orders").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(home), "-c", str(home / "none.ini"), *PLUGIN, *options,
         str(file)],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**kept, "PYTHONPATH": f"{folder}:{PROJECT}", "SHOP_FOLDER": str(home / "orders"), "TMPDIR": str(home),
             **(env or {})},
    )  # fmt: skip
    return finish(process, 400)


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="y-", dir=STATE, ignore_cleanup_errors=True) as folder:
        (Path(folder) / "none.ini").write_text("[pytest]\n")
        yield Path(folder)


def test_plugin_is_registered_by_the_package_and_imports_nothing_heavy() -> None:
    entry = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert [hasattr(import_module(module), "delivery_lab") for module in entry.values()] == [True]
    code = (
        f"import sys, {', '.join(entry.values())}\n"
        "print([name for name in ('django', 'celery', 'redis', 'kombu', 'rich', 'msgspec', 'psutil') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == "[]"


def shown(page: str) -> list[str]:
    """The files of tests that a page shows."""
    found = pieces((PROJECT / page).read_text(encoding="utf-8"), page)
    return [piece.text for piece in found if piece.kind == "python" and not piece.skipped]


def test_delivery_lab_shows_the_job_that_broke_its_promise(home: Path) -> None:
    done = pytest_in(
        PLAIN, home,
        "from shop.app import charge_late, charge_surely, charges\n"
        "def test_lost(delivery_lab):\n"
        "    run = delivery_lab(charge_late, args=[['a'], {'order': 'b'}], effects=charges, at='started', seed=7)\n"
        "    run.assert_at_most_once()\n"
        "    run.assert_at_least_once()\n"
        "def test_kept(delivery_lab):\n"
        "    run = delivery_lab(charge_surely, args=[['c']], effects=charges, kill='main', at='acking')\n"
        "    run.assert_at_least_once()\n"
        "    assert run.result().duplicated == 1\n",
        "-p", "no:django", "-p", "no:randomly",
    )  # fmt: skip
    assert done.code == 1, done.out + done.err
    assert "1 failed, 1 passed" in done.out, done.out
    for said in (
        "shop.charge_late was not at-least-once: 2 kills injected, 2 lost, 0 twice",
        "reject_on_worker_lost (task_reject_on_worker_lost) is off",
        "kill-child at started",
        "delivery_lab(..., seed=7)",
    ):
        assert said in done.out


def test_delivery_lab_on_another_broker_and_with_a_fault_of_the_broker(home: Path, rabbitmq: RabbitServer) -> None:
    done = pytest_in(
        PLAIN, home,
        "from shop.app import charge_surely, charges\n"
        "def test_rabbitmq(delivery_lab):\n"
        f"    run = delivery_lab(charge_surely, args=[['a']], effects=charges, broker={rabbitmq.url!r}, queue='classic')\n"
        "    run.assert_at_least_once()\n"
        "    assert (run.result().broker, run.result().duplicated) == ('rabbitmq-classic', 1)\n"
        "def test_broker(delivery_lab):\n"
        "    run = delivery_lab(charge_surely, jobs=3, args=[['b'], ['c'], ['d']], fault='broker-kill-off', broker='reliable')\n"
        "    run.assert_at_least_once()\n",
        "-p", "no:django", "-p", "no:randomly", env=rabbitmq.for_rabbitmqctl,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.out, done.out + done.err
    assert "shop.charge_surely was not at-least-once: 1 kills injected, 2 lost, 0 twice" in done.out
    assert "Redis had no append-only file" in done.out


def test_delivery_lab_says_what_it_cannot_do(home: Path) -> None:
    done = pytest_in(
        PLAIN, home,
        "import pytest\n"
        "from shop.app import charge, charges\n"
        "def broken(order):\n    raise LookupError('the books are closed')\n"
        "def test_point(delivery_lab):\n    delivery_lab(charge, args=[['a']], at='claimed')\n"
        "def test_effects(delivery_lab):\n    delivery_lab(charge, args=[['a']], effects=broken)\n"
        "def test_no_number(delivery_lab):\n    delivery_lab(charge, args=[['a']], effects=lambda order: None)\n"
        "def test_no_json(delivery_lab):\n    delivery_lab(charge, args=[['a'], [b'b']])\n"
        "def test_no_task(delivery_lab):\n    delivery_lab(broken, args=[['a']])\n"
        "def test_no_kills(delivery_lab):\n    delivery_lab(charge, args=iter([['a']]), kills=0)\n"
        "def test_no_jobs(delivery_lab):\n    delivery_lab(charge, args=[])\n"
        "@pytest.mark.delivery_campaign\n"
        "def test_long(delivery_lab):\n    assert False\n",
        "-p", "no:django", "-p", "no:randomly", "--strict-markers",
    )  # fmt: skip
    assert "7 failed, 1 deselected" in done.out, done.out + done.err
    for said in (
        "The effects of ('a') could not be counted: it returned None, and has to return a whole number from 0.",
        "args[1] cannot be sent as JSON: Object of type bytes is not JSON serializable.",
        "broken is not a Celery task: pass delivery_lab what @app.task returned.",
        "kills=0: write a number from 1, or kill=None for a run without faults.",
        "args=[] has no call, so there is no job.",
    ):
        assert said in done.out, done.out
    assert "never reaches claimed" in done.out
    assert "LookupError: the books are closed" in done.out
    logs = [path.read_text(encoding="utf-8") for path in home.rglob("lab.log")]
    # Its last line, whether a job was published before the first question about effects or not.
    ended = [log for log in logs if "Interrupted" in log.splitlines()[-1]]
    assert len(ended) == 2, f"the lab waited for an answer about effects until it was killed: {logs}"


def test_delivery_lab_without_the_extra_names_it(home: Path) -> None:
    blocked = "import sys\nsys.modules['msgspec'] = None\n"
    done = pytest_in(PLAIN, home, f"{blocked}def test_it(delivery_lab):\n    pass\n", "-p", "no:django")
    assert "run: pip install '.[lab]'" in done.out, done.out + done.err


@pytest.fixture
def shop(home: Path) -> dict[str, Any]:
    """The databases of the bookshop, with files for its tests."""
    files = {alias: str(home / f"{alias}.sqlite3") for alias in ("default", "ops")}
    return {
        alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": f"{name}.test"}}
        for alias, name in files.items()
    }


def in_the_shop(home: Path, databases: dict[str, Any], text: str) -> Finished:
    env = {"DJANGO_SETTINGS_MODULE": "bookshop.settings", "BOOKSHOP_SETTINGS": repr({"DATABASES": databases})}
    return pytest_in(SHOP, home, text, env=env)


def test_pytest_plugin_how_to_passes_as_it_is(home: Path) -> None:
    (text,) = shown(HOW_TO)
    done = pytest_in(PLAIN, home, text, "-p", "no:django")
    assert "1 passed" in done.out, done.out + done.err


def test_tutorial_fails_first_and_passes_with_a_pattern(home: Path, shop: dict[str, Any]) -> None:
    before, after = shown(TUTORIAL)
    failed = in_the_shop(home, shop, before)
    (output,) = [
        piece.text for piece in pieces((PROJECT / TUTORIAL).read_text(encoding="utf-8"), TUTORIAL) if piece.kind == "text"
    ]  # fmt: skip
    assert "1 failed" in failed.out, failed.out + failed.err
    assert output.strip() in failed.out, failed.out
    passed = in_the_shop(home, shop, after)
    assert "2 passed" in passed.out, passed.out + passed.err
    assert not Path(shop["default"]["NAME"]).exists(), "the project's own database was not touched"


def test_database_in_memory_is_refused(home: Path, shop: dict[str, Any]) -> None:
    refused = in_the_shop(home, {alias: {**each, "TEST": {}} for alias, each in shop.items()}, shown(TUTORIAL)[0])
    assert "is in memory, where the workers of delivery_lab cannot see it" in refused.out, refused.out + refused.err
