"""Fixtures for the whole suite. No test touches the developer's state folder, services or databases.

Over 300 lines: each fixture is used throughout the tests, and they use each other.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from tasks_demo.lab.controls import CONTROLS, RIVALS
from tests import forks
from tests.support import (
    STATE,
    TOKEN,
    Finished,
    Home,
    describe,
    emptied,
    living,
    marked,
    migrated_home,
    private_environment,
)

private_environment()
# How fast a busy machine generates inputs and runs an example says nothing about the code.
hypothesis.settings.register_profile("tests", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("tests")
TESTS = Path(__file__).parent
_CONTROLS = [*CONTROLS, *(f"rivals.{name}" for name in RIVALS)]


def _settle_in() -> None:
    """Reload the settings in the private environment: pytest-django loads them before any conftest is read."""
    from django.conf import settings
    from django.db import connections

    import project.settings as loaded

    if STATE.resolve() == settings.STATE_DIR:
        return
    fresh = importlib.reload(loaded)
    for name in dir(fresh):
        if name.isupper():
            setattr(settings, name, getattr(fresh, name))
    # No connection is open yet; the handler reads the new addresses on first use.
    connections.__dict__.pop("settings", None)
    connections._settings = None  # type: ignore[attr-defined]
    connections.close_all()
    for alias in list(connections):
        if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
            del connections[alias]


def _hash_passwords_quickly() -> None:
    """Django's own hasher takes 0.4 s of a core for each user that a test creates; passwords that it made are still read."""
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]


def _list_static_files_once() -> None:
    """Each test client loads the middleware, and WhiteNoise then looks at all static files: 10 ms of a core, always the same."""
    from whitenoise.middleware import WhiteNoiseMiddleware

    look = WhiteNoiseMiddleware.add_files_from_finders
    found: dict[str, Any] = {}

    def add_files_from_finders(middleware: Any) -> None:
        if not found:
            look(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    WhiteNoiseMiddleware.add_files_from_finders = add_files_from_finders  # type: ignore[method-assign]


def _flush(case: Any) -> None:
    """Empty the databases after a test that commits, as Django does, but for the names of models and permissions.

    No test changes those. Django would write them again after each test, which takes longer than all the rest.
    """
    from django.core.management.color import no_style
    from django.db import connections

    for alias in case._databases_names(include_mirrors=False):
        ours = connections[alias]
        tables = set(ours.introspection.django_table_names(only_existing=True, include_views=False))
        tables -= {"django_content_type", "auth_permission"}
        ours.ops.execute_sql_flush(ours.ops.sql_flush(no_style(), sorted(tables)))


_settle_in()
_hash_passwords_quickly()
_list_static_files_once()
forks.adopt()
TransactionTestCase._fixture_teardown = _flush  # type: ignore[method-assign]


#: The slowest files run first: pytest-xdist gives each process one file at a time, and a slow file at the end would keep the
#: others idle. The rest runs in random order. ``make test PYTEST_ARGS=--durations=60`` shows which files belong here.
LONGEST = (
    "lab/test_contract.py",
    "lab/benchmark/test_run.py",
    "browser/test_every_screen.py",
    "lab/test_main.py",
    "lab/engine/test_broker_kill.py",
    "integration/outbox/test_relay_processes.py",
    "integration/docs/test_snippets.py",
    "integration/doctor/test_other_projects.py",
    "integration/testing/test_other_projects.py",
    "integration/patterns/test_base.py",
    "integration/patterns/test_attempts.py",
    "integration/demo/test_payment_scenario.py",
    "integration/demo/bank/test_server.py",
    "integration/outbox/test_claims.py",
    "integration/doctor/test_connections.py",
    "integration/patterns/test_execution_failures.py",
    "integration/leases/test_heartbeat.py",
    "integration/ledger/test_tallies.py",
    "integration/ledger/test_writer_failures.py",
    "integration/outbox/test_relay.py",
    "integration/leases/test_protocol_model.py",
    "lab/test_pytest_plugin.py",
    "lab/engine/test_runner.py",
    "lab/engine/test_broker_outages.py",
    "lab/processes/test_databases.py",
    "lab/management/test_experiment.py",
    "lab/screens/test_experiments.py",
    "integration/ledger/test_store_sqlite_defaults.py",
    "integration/docs/test_examples.py",
    "integration/outbox/test_reporting.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among thousands of tests while they are collected, nor among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the slowest files first, in any test order; needs --no-loadscope-reorder, set in pyproject.toml."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(str(item.path.relative_to(TESTS)), len(rank)))


#: Reports of leftover processes, sent by the pytest-xdist workers to the controller.
_reports: list[str] = []


def pytest_testnodedown(node: Any, error: object) -> None:
    _reports.extend(getattr(node, "workeroutput", {}).get("left_over", ()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the session if a process started by the tests still runs; then kill it by its pid."""
    if session.config.getoption("numprocesses", None):
        if _reports:  # each pytest-xdist worker has checked for itself
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    _, late = psutil.wait_procs(_left_over(), timeout=5)
    left = [process for process in _left_over() if process in late]
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        _reports.extend(f"left running by the tests: {process.pid} {describe(process)}" for process in left)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        getattr(session.config, "workeroutput", {})["left_over"] = _reports
    forks.close()
    if session.exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(STATE, ignore_errors=True)


def _left_over() -> list[psutil.Process]:
    ours = {process.pid: process for process in marked(TOKEN)}
    ours |= {child.pid: child for child in living(psutil.Process().children(recursive=True))}
    ours.pop(forks.pid(), None)
    return list(ours.values())


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print what is needed to repeat a failing run, also with -q."""
    for line in _reports:
        terminalreporter.write_line(line, red=True)
    if exitstatus != pytest.ExitCode.OK:
        seed = config.getoption("randomly_seed", None)
        terminalreporter.write_line(f"order of the tests: PYTEST_ARGS='--randomly-seed={seed}'")


def pytest_report_header() -> str:
    return f"state of this run (kept if a test fails): {STATE}"


@pytest.fixture(autouse=True)
def _controls_are_forgotten() -> Iterator[None]:
    """Controls of the lab that a test imports become tasks of this process, which the checks of later tests would name."""
    yield
    imported = [
        f"tasks_demo.lab.controls.{name}" for name in _CONTROLS if f"tasks_demo.lab.controls.{name}" in sys.modules
    ]
    if imported:
        from celery import current_app

        for module in imported:
            del sys.modules[module]
        for name in [name for name in current_app.tasks if name.startswith("tasks_demo.lab.")]:
            del current_app.tasks[name]


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A state folder for subprocess commands, with a migrated database that no test empties."""
    with migrated_home("h") as place:
        yield place


@pytest.fixture(scope="session")
def manage(home: Home) -> Callable[..., Finished]:
    """``manage(*args, env=..., timeout=...)`` runs a real manage.py in ``home``."""

    def run(*arguments: str | bytes, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> Finished:
        return home.manage(*arguments, env=env, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def _redis() -> Iterator[str]:
    from django.conf import settings

    from tasks_demo.demo.defaults import redis_socket
    from tasks_demo.demo.stack import EmbeddedRedis

    with EmbeddedRedis(STATE / "redis", redis_socket(settings.STATE_DIR)) as server:
        assert server.url == settings.REDIS_URL
        yield server.url


@pytest.fixture(scope="module")
def redis_url(_redis: str) -> str:
    """The embedded Redis at the address in the settings, so this process publishes to it without configuration.

    It is emptied first: a message fetched by a killed worker of an earlier module would stay unacknowledged for 15 minutes.
    """
    emptied(_redis)
    return _redis


@pytest.fixture(scope="session")
def bank_url() -> Iterator[str]:
    """A bank with its own books."""
    from tasks_demo.demo.stack import EmbeddedBank

    books = f"sqlite:///{STATE / 'bank_of_tests.sqlite3'}"
    with EmbeddedBank(STATE / "bank.log", env={"BANK_DATABASE_URL": books}) as server:
        yield server.url


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket in it (sun_path holds 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="s-", dir=STATE) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Create all test databases. pytest-django creates only those named by a django_db mark, and ``ledger`` has no mark."""
    from django.db import connections
    from django.test.utils import setup_databases, teardown_databases

    from tasks_demo.ledger.recorder import recorder

    for alias in connections:
        known = connections[alias].settings_dict
        if connections[alias].vendor == "postgresql":  # SQLite files are in this process's own folder already
            known["TEST"]["NAME"] = f"test_{known['NAME']}_{TOKEN[:12]}"
    with django_db_blocker.unblock():
        made = setup_databases(
            verbosity=0, interactive=False, aliases=dict.fromkeys(connections), serialized_aliases=set()
        )
    yield
    with django_db_blocker.unblock():
        # A test without ``ledger`` may have opened the ledger's own connection; PostgreSQL drops no database in use.
        recorder.close()
        recorder._waiting.clear()  # with nothing to commit, its thread opens no new connection
        recorder._gap = None
        teardown_databases(made, verbosity=0)


@pytest.fixture
def ledger(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The ledger on the test database, with commits that other processes see; emptied afterwards.

    Uses DELETEs, because pytest-django's flush of every table takes a second on PostgreSQL.
    """
    from django.db import connection, connections

    from tasks_demo.ledger.recorder import recorder
    from tasks_demo.ledger.store import store

    with django_db_blocker.unblock():
        assert "test_" in str(connection.settings_dict["NAME"]), "this is not a test database"
        recorder.try_flush()
        _empty(connection)  # remove rows written late by a worker of an earlier module
        try:
            yield
            recorder.try_flush()
            assert not recorder._waiting, "the ledger could not write everything down"
        finally:
            recorder._waiting.clear()
            recorder._gap = None
            store.close()
            _empty(connection)
            connections.close_all()


def _empty(connection: Any) -> None:
    from django.db import transaction

    # A worker's commit between the DELETEs would leave a tally without events, or events without a tally. PostgreSQL also
    # needs the lock: inside a transaction, each statement still sees what has been committed by then.
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("LOCK TABLE tasks_demo_event, tasks_demo_tally IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("DELETE FROM tasks_demo_tally")
        cursor.execute("DELETE FROM tasks_demo_event")
        cursor.execute("DELETE FROM tasks_demo_bookcursor")
        cursor.execute("DELETE FROM tasks_demo_booksread")
        cursor.execute("DELETE FROM tasks_demo_workerprocess")
