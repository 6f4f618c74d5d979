"""``manage.py admin_user``: make the user ``admin`` of the dashboard, with a generated password."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandParser

NAME = "admin"


class Command(BaseCommand):
    help = (
        "Makes the superuser `admin` if it is missing, with a generated password kept in STATE_DIR/admin_password "
        "(mode 600), and prints address, user and password. --reset makes a new password."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="replace the password by a new one")
        parser.add_argument("--address", default="http://127.0.0.1:8000/admin/tasks_demo/", help="address to print")

    def handle(self, *args: Any, reset: bool, address: str, **options: Any) -> None:
        password = ensure_admin(settings.STATE_DIR / "admin_password", reset=reset)
        self.stdout.write(f"Dashboard: {address}")
        self.stdout.write(f"User:      {NAME}")
        shown = password or "(changed since; `manage.py admin_user --reset` makes a new one)"
        self.stdout.write(f"Password:  {shown}")


def ensure_admin(kept: Path, *, reset: bool = False) -> str | None:
    """Return the password of the user ``admin``, made if missing; None if somebody has changed it."""
    user = User.objects.filter(username=NAME).first()
    known = _read(kept)
    if user and not reset:
        return known if known and user.check_password(known) else None
    # A state folder may serve several databases one after the other: they then share the password.
    password = known if known and not reset else secrets.token_urlsafe(15)
    # Written first: after a crash in between, the next call makes the user.
    _write(kept, password)
    if user is None:
        User.objects.create_superuser(NAME, password=password)
    else:
        user.set_password(password)
        user.is_staff = user.is_superuser = user.is_active = True
        user.save()
    return password


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
