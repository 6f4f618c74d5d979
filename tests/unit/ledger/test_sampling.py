"""Which task IDs the ledger records: every process decides alike, and the shares are as configured."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tasks_demo.core.exceptions import ContradictoryDeclaration, InvalidSetting
from tasks_demo.ledger.sampling import Sampling, place
from tasks_demo.patterns import AcksLate

RULES = {"shop.noise.*": 0.01, "celery.*": False, "shop.*": True}


@pytest.mark.parametrize(
    ("task", "declared", "share"),
    [
        ("shop.noise.view", 1.0, 0.01),
        ("celery.backend_cleanup", 1.0, 0.0),
        ("shop.charge", 0.0, 1.0),  # the setting overrides the task
        ("other.charge", 0.25, 0.25),
        ("other.charge", 0.0, 0.0),
        ("", 1.0, 1.0),
    ],
)
def test_sampling_share_is_what_it_says(task: str, declared: float, share: float) -> None:
    sampling = Sampling(RULES)
    ids = [str(uuid.UUID(int=number)) for number in range(20_000)]
    taken = [one for one in ids if sampling.includes(task, declared, one)]
    assert len(taken) == pytest.approx(share * len(ids), rel=0.2, abs=0)
    assert taken == [one for one in ids if Sampling(RULES).includes(task, declared, one)], "every process decides alike"


def test_sampling_keeps_a_task_id_of_a_small_share_in_a_larger_one() -> None:
    ids = [str(number) for number in range(2000)]
    small = {one for one in ids if Sampling({}).includes("t", 0.1, one)}
    assert small < {one for one in ids if Sampling({}).includes("t", 0.5, one)}
    assert all(0 <= place(one) < 1 for one in (*ids, "", "ä\ud800"))


@pytest.mark.parametrize("given", [1.5, -0.1, "much", None, float("nan")])
def test_sampling_refuses_an_invalid_share(given: Any) -> None:
    with pytest.raises(InvalidSetting, match=r"TASKS_DEMO_LEDGER_TASKS.*shop"):
        Sampling({"shop.*": given})
    with pytest.raises(ContradictoryDeclaration, match="share"):
        AcksLate.task(ledger=given)


def test_sampling_start_that_is_needed_must_be_recorded() -> None:
    with pytest.raises(ContradictoryDeclaration, match="needs_ledger"):
        AcksLate.task(needs_ledger=True, ledger=0.5)
    AcksLate.task(needs_ledger=True)
