"""Settings under one prefix: defaults, lazy reading, and an error message for each value that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings as DjangoSettings

from tasks_demo.core.conf import Settings
from tasks_demo.core.conf import settings as ours
from tasks_demo.core.exceptions import InvalidSetting


def test_conf_missing_setting_takes_its_default() -> None:
    assert Settings.__dict__["RESULT_MAX_BYTES"] == ours.RESULT_MAX_BYTES


def test_conf_settings_are_read_when_they_are_used(settings: DjangoSettings) -> None:
    for value in (3.5, 7.0):
        settings.TASKS_DEMO_LEASE_SECONDS = value
        assert value == ours.LEASE_SECONDS


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("LEASE_SECONDS", 3, 3.0),
        ("LEASE_SECONDS", "2.5", 2.5),
        ("RESULT_MAX_BYTES", "17", 17),
        ("LEDGER", "0", False),
        ("LEDGER", "TRUE", True),
        ("LEDGER", False, False),
        ("KEY_PREFIX", "7", "7"),
    ],
)
def test_conf_text_of_the_environment_becomes_the_right_type(
    settings: DjangoSettings, name: str, given: Any, read: Any
) -> None:
    setattr(settings, f"TASKS_DEMO_{name}", given)
    value = getattr(ours, name)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("LEASE_SECONDS", 0),
        ("LEASE_SECONDS", -1.0),
        ("LEASE_SECONDS", float("nan")),
        ("LEASE_SECONDS", float("inf")),
        ("LEASE_SECONDS", "soon"),
        ("LEASE_SECONDS", "nan"),
        ("LEASE_SECONDS", None),
        ("LEASE_SECONDS", True),
        ("RESULT_MAX_BYTES", 1.5),
        ("RESULT_MAX_BYTES", True),
        ("RESULT_MAX_BYTES", "0"),
        ("RESULT_MAX_BYTES", "1.5"),
        ("LEDGER", "maybe"),
        ("LEDGER", 1),
        ("KEY_PREFIX", 7),
        ("REDIS_URL", None),
    ],
)
def test_conf_refuses_an_unusable_setting_with_its_name_and_value(
    settings: DjangoSettings, name: str, given: Any
) -> None:
    setattr(settings, f"TASKS_DEMO_{name}", given)
    with pytest.raises(InvalidSetting, match=f"TASKS_DEMO_{name} is ") as caught:
        getattr(ours, name)
    assert str(given) in str(caught.value)


def test_conf_setting_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        ours.LEASE_SECOND  # noqa: B018
