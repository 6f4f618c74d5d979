"""Sentinel addresses: the valid forms, and error messages for the rest that show no password."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.leases.redis_client import connect


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        ("sentinel://h?master=m", [("h", 26379)], {}),
        ("sentinel://h:1,i:2/3?master=m", [("h", 1), ("i", 2)], {"db": 3}),
        ("sentinel://h:1;sentinel://i/3?master=m", [("h", 1), ("i", 26379)], {"db": 3}),
        ("sentinel://u:p%40@h:1/0?master=m", [("h", 1)], {"username": "u", "password": "p@", "db": 0}),
        ("sentinel://:p@[::1]:5,i?master=m", [("::1", 5), ("i", 26379)], {"password": "p"}),
    ],
)
def test_sentinel_address_names_sentinels_the_primary_and_the_database(
    url: str, hosts: list[tuple[str, int]], database: dict[str, Any]
) -> None:
    pool: Any = connect(url, 2.0).connection_pool
    places = [client.connection_pool.connection_kwargs for client in pool.sentinel_manager.sentinels]
    assert [(place["host"], place["port"]) for place in places] == hosts
    assert pool.service_name == "m"
    given = {
        name: pool.connection_kwargs[name] for name in ("username", "password", "db") if name in pool.connection_kwargs
    }
    assert given == database
    assert {place["socket_timeout"] for place in [*places, pool.connection_kwargs]} == {2.0}


def test_sentinels_may_have_a_password_of_their_own() -> None:
    pool: Any = connect("sentinel://:p@h?master=m&sentinel_password=q", 2.0).connection_pool
    assert pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs["password"] == "q"
    assert pool.connection_kwargs["password"] == "p"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sentinel://:hunter2@h:1/0", "does not name the primary: add"),
        ("sentinel://:hunter2@h:1/0?master=", "master"),
        ("sentinel://:hunter2@h:1/0?master=m&colour=blue", "its query has colour"),
        ("sentinel://:hunter2@h:1;redis://:hunter2@i?master=m", "has the scheme 'redis'"),
        ("sentinel://:hunter2@?master=m", "a sentinel has no host"),
        ("sentinel://:hunter2@h:x?master=m", "cannot be used"),
        ("sentinel://:hunter2@h/x?master=m", "cannot be used"),
    ],
)
def test_sentinel_address_that_cannot_work_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(InvalidSetting, match=why) as caught:
        connect(url, 1.0)
    assert "hunter2" not in str(caught.value)
    assert "sentinel://host1:26379,host2:26379/0?master=NAME" in str(caught.value)
