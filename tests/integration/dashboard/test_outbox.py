"""The outbox in the admin."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tasks_demo.outbox import enqueue
from tests.integration.outbox.outbox_ground import elsewhere, row, table
from tests.integration.outbox.outbox_queue import JOB, charge

__all__ = ["elsewhere", "table"]

pytestmark = pytest.mark.usefixtures("table")


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_outbox_admin_shows_it_and_changes_nothing(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root-of-outbox"))
    task_id = enqueue(charge, kwargs=JOB)
    list_of_all = "/admin/tasks_demo_records/outboxmessage/"
    for query in ("", "?state=open", f"?q={task_id[:8]}"):
        page = client.get(list_of_all + query)
        assert page.status_code == 200
        assert task_id in page.content.decode()
    assert task_id not in client.get(list_of_all + "?state=ended").content.decode()
    assert client.get(f"{list_of_all}{row(task_id).id}/change/").status_code == 200
    assert client.get(f"{list_of_all}add/").status_code == 403
    assert client.post(f"{list_of_all}{row(task_id).id}/change/", {"task": "x"}).status_code == 403
    assert client.post(f"{list_of_all}{row(task_id).id}/delete/", {"post": "yes"}).status_code == 403
    assert row(task_id).task == charge.name
