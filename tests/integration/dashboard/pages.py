"""What the tests of screens do with a page: log somebody in, read its text, send its form of confirmation."""

from __future__ import annotations

import re
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client


def somebody(client: Client, name: str, *permissions: str) -> Client:
    """Log in a member of the staff who has these permissions and no other."""
    user = User.objects.create_user(name, password="p", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def text(response: Any) -> str:
    """The page's visible text."""
    assert response.status_code == 200, response.status_code
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def sure(asked: Any) -> str:
    """What the page of confirmation has fixed, as its form sends it; empty if there is nothing to confirm."""
    (found,) = re.findall(r'name="sure" value="([^"]+)"', asked.content.decode()) or [""]
    return str(found)


def confirm(client: Client, address: str, asked: Any, why: str = "because") -> Any:
    """Send the form of a page of confirmation."""
    return client.post(address, {"sure": sure(asked), "why": why})
