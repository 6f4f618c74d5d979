"""``manage.py admin_user``: a generated password that only its owner can read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from pytest_django import Settings

from tasks_demo.demo.management.commands.admin_user import ensure_admin
from tests.integration.bookshop import Bookshop

pytestmark = pytest.mark.django_db


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "admin_password"


def test_admin_user_is_made_once_and_its_password_is_private(kept: Path) -> None:
    password = ensure_admin(kept)
    assert password
    assert len(password) >= 20
    user = User.objects.get(username="admin")
    assert user.is_superuser
    assert user.check_password(password)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert ensure_admin(kept) == password
    assert User.objects.count() == 1


def test_admin_user_has_another_password_in_every_installation(tmp_path: Path) -> None:
    first = ensure_admin(tmp_path / "one")
    User.objects.all().delete()
    assert ensure_admin(tmp_path / "two") != first


def test_admin_user_reset_replaces_the_password(kept: Path) -> None:
    old = ensure_admin(kept)
    kept.chmod(0o644)
    new = ensure_admin(kept, reset=True)
    assert new
    assert new != old
    user = User.objects.get(username="admin")
    assert user.check_password(new)
    assert kept.read_text().strip() == new
    assert kept.stat().st_mode & 0o777 == 0o600


def test_admin_user_keeps_a_password_that_somebody_changed(kept: Path) -> None:
    ensure_admin(kept)
    user = User.objects.get(username="admin")
    user.set_password("chosen by a person")
    user.save()
    assert ensure_admin(kept) is None
    assert User.objects.get(username="admin").check_password("chosen by a person")


def test_admin_user_of_another_database_gets_the_same_password(kept: Path) -> None:
    password = ensure_admin(kept)
    User.objects.all().delete()
    assert ensure_admin(kept) == password


def test_admin_user_command_prints_address_user_and_password(tmp_path: Path, settings: Settings) -> None:
    settings.STATE_DIR = tmp_path
    shown = io.StringIO()
    call_command("admin_user", stdout=shown)
    password = (tmp_path / "admin_password").read_text().strip()
    assert shown.getvalue().split() == [
        "Dashboard:", "http://127.0.0.1:8000/admin/tasks_demo/", "User:", "admin", "Password:", password,
    ]  # fmt: skip


def test_admin_user_and_the_benchmarks_users_are_of_the_projects_own_user_model(
    bookshop: Bookshop, tmp_path: Path
) -> None:
    before = (
        "from pathlib import Path\nfrom django.apps import apps\nfrom django.core.management import call_command\n"
        "from django.test import Client\ncall_command('migrate', run_syncdb=True, verbosity=0)\n"
        "from tasks_demo.demo.management.commands.admin_user import ensure_admin\n"
        "from tasks_demo.benchmark.users import logged_in\n"
        f"kept = Path({str(tmp_path)!r}) / 'password'\n"
        "first = ensure_admin(kept); same = ensure_admin(kept) == first; other = ensure_admin(kept, reset=True) != first\n"
        "people = apps.get_model('people', 'Person').objects\n"
        "admin = people.get()\n"
        "client = logged_in('benchmark')\n"
        "made = people.get(email='benchmark')\n"
    )
    values = "[admin.email, admin.is_superuser, same, other, made.is_staff, '_auth_user_id' in client.session]"
    apps = ["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
    settings = {
        "AUTH_USER_MODEL": "people.Person", "DATABASE_ROUTERS": [],
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        "INSTALLED_APPS": [*apps, "tests.integration.demo.people", "tasks_demo.records", "tasks_demo", "orders"],
    }  # fmt: skip
    assert bookshop.value(values, before=before, settings=settings) == ["admin", True, True, True, True, True]
