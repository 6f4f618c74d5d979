"""``manage.py admin_user``: create the dashboard's user ``admin``, with a generated password."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandParser

from tasks_demo.management.base import PackageCommand

NAME = "admin"
#: Where ``manage.py up`` serves the dashboard, unless it is given another port.
ADDRESS = "http://127.0.0.1:8000/admin/tasks_demo/"


class Command(PackageCommand):
    help = (
        "Creates the superuser `admin` if it is missing, with a generated password stored in STATE_DIR/admin_password "
        "(mode 600), and prints address, user and password. --reset generates a new password."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="generate a new password")
        parser.add_argument("--address", default=ADDRESS, help="address to print")

    def handle(self, *args: Any, reset: bool, address: str, **options: Any) -> None:
        self.stdout.write(login_hint(address, ensure_admin(settings.STATE_DIR / "admin_password", reset=reset)))


def login_hint(address: str, password: str | None) -> str:
    """Return address, user and password, as lines to print."""
    shown = password or "(was changed; `manage.py admin_user --reset` generates a new one)"
    return f"Dashboard: {address}\nUser:      {NAME}\nPassword:  {shown}"


def ensure_admin(kept: Path, *, reset: bool = False) -> str | None:
    """Return the password of the user ``admin``, who is created if missing; None if the password was changed."""
    users: Any = get_user_model()
    named = {users.USERNAME_FIELD: NAME}
    user = users._default_manager.filter(**named).first()
    known = _read(kept)
    if user and not reset:
        return known if known and user.check_password(known) else None
    # A state folder may be used with several databases in turn; they then share the password.
    password = known if known and not reset else secrets.token_urlsafe(15)
    # Written first, so that after a crash in between the next call creates the user.
    _write(kept, password)
    if user is None:
        users._default_manager.create_superuser(**named, **_required(users), password=password)
    else:
        user.set_password(password)
        user.is_staff = user.is_superuser = user.is_active = True
        user.save()
    return password


def _required(users: Any) -> dict[str, Any]:
    """Return a value for each field that a user model of the project requires, as ``createsuperuser`` asks for them."""
    fields = [users._meta.get_field(name) for name in users.REQUIRED_FIELDS]
    return {field.name: field.get_default() if field.has_default() else "" for field in fields}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, password: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(password + "\n")
