"""Two faults in one cell: which go together, how they are written, and that their prediction follows from the single ones."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.brokers import KINDS
from tasks_demo.lab.plan.cells import Cell, applies, points_of
from tasks_demo.lab.plan.combined import OF_A_CONNECTION, OF_A_PROCESS, Combined, description, parse
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.options import FAULTS, OptionRefused, cells_for
from tasks_demo.lab.plan.predictions import prediction
from tasks_demo.lab.plan.timing import VISIBILITY_AFTER_CHILD, VISIBILITY_AFTER_MAIN, visibility_timeout

NOTHING = dict.fromkeys(("pattern", "fault", "point", "tasks", "kills", "work", "clicks"))
PAIRS = [
    Combined(one, other)
    for one, other in (
        *product(OF_A_PROCESS, (*OF_A_CONNECTION, Fault.DOUBLE_PUBLISH)),
        *product(OF_A_CONNECTION, (Fault.DOUBLE_PUBLISH,)),
    )
]


def asked(*faults: str, **options: Any) -> list[Cell]:
    return cells_for({**NOTHING, "keyless": False, "fault": list(faults), **options}, seed=1)[0]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_pair_is_the_same_in_either_order_and_with_any_spaces(pair: Combined) -> None:
    one, other = pair
    for name in (f"{one} + {other}", f"{other}+{one}", f" {other} +{one} "):
        assert parse(name) == pair
    assert str(parse(str(pair))) == f"{one} + {other}"


@pytest.mark.parametrize("name", FAULTS)
def test_single_fault_is_not_a_pair(name: str) -> None:
    assert parse(name) is Fault(name)
    assert description(name) == Fault(name).description


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("earthquake", "Unknown fault 'earthquake': write none, kill-child"),
        ("kill-main + earthquake", "Unknown fault 'earthquake'"),
        ("load", "write --load RATE instead."),
        ("load + cut", "Unknown fault 'load'"),
        ("+", "Unknown fault '+'"),
        ("cut +", "Unknown fault ''"),
        ("cut + cut", "names one fault twice: write cut."),
        ("kill-main + cut + term", "two faults can be combined, not 3."),
        ("kill-main + kill-child", "these two cannot be combined"),
        ("cut + delay", "these two cannot be combined"),
        ("none + cut", "these two cannot be combined"),
        ("poison + cut", "these two cannot be combined"),
        (
            "database-kill + kill-main",
            "database-kill is injected once in a cell, and not at a particular job. One of kill-child",
        ),
        (
            "clock-jump + kill-main",
            "clock-jump is known to have happened by what its victim does next, in the wrong time",
        ),
        ("broker-full + kill-main", "broker-full is injected once in a cell"),
        ("out-of-memory + kill-main", "these two cannot be combined. One of "),
        ("hostile + double-publish", "these two cannot be combined"),
    ],
)
def test_pair_name_that_means_nothing_is_refused_with_a_sentence(name: str, said: str) -> None:
    with pytest.raises(OptionRefused) as refused:
        asked(name)
    assert said in str(refused.value)
    assert str(refused.value).endswith(".")


def test_pair_makes_cells_at_the_points_of_the_fault_that_is_aimed() -> None:
    cells = asked("cut + kill-child", pattern=["inbox"], point=["all"])
    assert [cell.point for cell in cells] == [str(point) for point in points_of("inbox", Fault.KILL_CHILD)]
    assert {cell.faults for cell in cells} == {(Fault.KILL_CHILD, Fault.CUT)}
    assert {cell.fault_name for cell in cells} == {"kill-child + cut"}
    assert all(Cell.from_dict(json.loads(json.dumps(cell.as_dict()))) == cell for cell in cells)


def test_pair_may_stand_beside_all_single_faults_which_do_not_include_it() -> None:
    names = [cell.fault_name for cell in asked("all", "kill-main + cut", pattern=["acks_late"])]
    assert names == [
        *(name for name in FAULTS if name != "broker-kill" and applies("acks_late", Fault(name))),
        "kill-main + cut",
    ]


def test_names_of_cells_with_a_pair_are_fit_for_files_and_workers() -> None:
    [cell] = asked("kill-main + cut", pattern=["acks_late"])
    assert cell.name == "acks_late/kill-main-and-cut"


def test_pair_second_fault_counts_for_the_times_of_a_cell() -> None:
    cells = asked("kill-child + cut", "kill-main + delay", "delay", "cut", pattern=["inbox"])
    timeouts = {cell.fault_name: visibility_timeout(cell) for cell in cells}
    assert timeouts == {
        "kill-child + cut": VISIBILITY_AFTER_MAIN,
        "kill-main + delay": VISIBILITY_AFTER_CHILD,
        "delay": VISIBILITY_AFTER_CHILD,
        "cut": VISIBILITY_AFTER_MAIN,
    }


@pytest.mark.parametrize("pattern", list(PROMISES))
@pytest.mark.parametrize("broker", list(KINDS))
def test_pair_may_show_what_either_fault_may_and_must_show_what_both_must(pattern: str, broker: str) -> None:
    promise = PROMISES[pattern].effects
    forbidden = {what for what, count in (("lost", 0), ("duplicated", 2)) if count not in promise}
    for pair in PAIRS:
        one, other = (prediction(pattern, str(fault), broker=broker) for fault in pair)
        both = prediction(pattern, str(pair), broker=broker)
        assert both.excluded == one.excluded & other.excluded
        assert both.required == one.required & other.required
        assert (both.outcome == "broken") == bool(both.required & forbidden)
        assert (both.outcome == "held") == (forbidden <= both.excluded)


def test_pair_is_open_where_one_of_the_two_may_break_the_promise() -> None:
    assert prediction("acks_early", "kill-main + black-hole").outcome == "open"
    assert prediction("acks_late", "kill-main + cut").outcome == "held"
    assert prediction("inbox", "kill-main + cut").outcome == "held"
    assert prediction("acks_late", "cut + double-publish").required == {"duplicated"}


def test_explanation_of_a_pair_names_both_and_of_an_unknown_one_nothing() -> None:
    assert description("kill-main + cut").count("; and at the same moment: ") == 1
    assert description("earthquake") == ""
