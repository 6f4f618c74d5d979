"""The superusers as which benchmarks open pages, of whatever user model the project has."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.test import Client


def logged_in(name: str) -> Client:
    """Return a client that is logged in as this superuser, who is created if missing."""
    users: Any = get_user_model()
    user, _ = users._default_manager.get_or_create(
        **{users.USERNAME_FIELD: name}, defaults={"is_staff": True, "is_superuser": True}
    )
    client = Client()
    client.force_login(user)
    return client


def remove(name: str) -> None:
    """Delete this superuser."""
    users: Any = get_user_model()
    users._default_manager.filter(**{users.USERNAME_FIELD: name}).delete()
