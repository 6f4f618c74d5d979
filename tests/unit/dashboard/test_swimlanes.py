"""Swimlanes: drawings of literal histories."""

from __future__ import annotations

import itertools
import re

from django.template.loader import render_to_string

from tasks_demo.dashboard.lanes import Bar, Lane
from tasks_demo.dashboard.swimlanes import LEFT, MOST_MOMENTS, RIGHT, WIDTH, Drawing, Moment, draw, duration
from tasks_demo.dashboard.time_scale import FOLD, Scale

KILLED = [
    Moment(0, "published"),
    Moment(5, "received", "w1", 100),
    Moment(10, "started", "w1", 101),
    Moment(15, "effect"),
    Moment(18, "effect_done", "w1", 101),
    Moment(20, "fault", pid=100, injected=True, victim="main", point="effect_done", main_pid=100, child_pid=101),
    Moment(3020, "received", "w2", 200, redelivered=True),
    Moment(3025, "started", "w2", 201),
    Moment(3028, "effect"),
    Moment(3030, "returned", "w2", 201),
    Moment(3032, "acked", "w2", 200),
]


def lane(drawing: Drawing, title: str, under: str = "") -> Lane:
    return next(each for each in drawing.lanes if each.title == title and under in each.under)


def spans(bars: list[Bar], tone: str) -> list[tuple[float, float | None, str]]:
    return [(bar.begins, bar.ends, bar.state) for bar in bars if bar.tone == tone]


def test_lanes_are_in_order_and_executions_are_bars() -> None:
    drawing = draw(KILLED)
    assert [each.title for each in drawing.lanes] == ["publisher", "broker", "w1", "w1", "w2", "w2", "books"]
    assert spans(lane(drawing, "w1", "pool").bars, "execution") == [(10, 20, "killed")]
    assert spans(lane(drawing, "w2", "pool").bars, "execution") == [(3025, 3030, "done")]


def test_broker_has_the_message_until_it_is_acknowledged() -> None:
    bars = lane(draw(KILLED), "broker").bars
    assert spans(bars, "waiting") == [(0, 5, "done")]
    assert spans(bars, "unacked") == [(5, 3020, "done"), (3020, 3032, "done")]


def test_message_that_was_popped_and_not_recorded_is_nowhere() -> None:
    kill = Moment(9, "fault", pid=100, injected=True, victim="main", point="fetched", main_pid=100)
    drawing = draw([Moment(0, "published"), Moment(8, "fetched", "w1", 100), kill, Moment(99, "settled")])
    assert spans(lane(drawing, "broker").bars, "waiting") == [(0, 8, "done")]
    assert spans(lane(drawing, "broker").bars, "unacked") == []


def test_kill_of_main_crosses_both_lanes_and_a_kill_of_the_child_one() -> None:
    drawing = draw(KILLED)
    x = next(mark.x for mark in lane(drawing, "w1", "main").marks if mark.tone == "fault")
    assert [each.dead for each in drawing.lanes if each.dead] == [[(x, WIDTH - x)]] * 2
    child = [
        *KILLED[:5],
        Moment(20, "fault", "w1", 101, injected=True, victim="child", main_pid=100),
        Moment(40, "failed", "w1", 102),
    ]
    hit = [each.under for each in draw(child).lanes if each.dead]
    assert hit == ["pool process"]


def test_fault_that_missed_ends_nothing() -> None:
    missed = Moment(20, "fault", "w1", 101, injected=False, victim="child")
    drawing = draw([*KILLED[:5], missed])
    assert not any(each.dead for each in drawing.lanes)
    assert spans(lane(drawing, "w1", "pool").bars, "execution") == [(10, None, "open")]


def test_swimlanes_end_that_never_came_is_an_open_bar_to_the_edge() -> None:
    drawing = draw(KILLED[:5])
    (bar,) = [each for each in lane(drawing, "w1", "pool").bars if each.tone == "execution"]
    assert (bar.state, bar.x + bar.width) == ("open", WIDTH)
    assert "the end of 1 execution is not on record" in drawing.description


def test_operation_is_held_until_it_is_completed_or_taken_over() -> None:
    claims = lane(
        draw(
            [
                Moment(0, "claimed", "w1", 1),
                Moment(10, "fault", "w1", 1, injected=True, victim="child"),
                Moment(50, "claimed", "w2", 2),
                Moment(60, "completed", "w2", 2),
            ]
        ),
        "operation",
    ).bars
    assert spans(claims, "claim") == [(0, 50, "taken over"), (50, 60, "done")]


def test_main_reports_the_end_of_a_job_whose_process_died() -> None:
    drawing = draw([Moment(0, "received", "w", 1), Moment(1, "started", "w", 2), Moment(9, "failed", "w", 1)])
    assert spans(lane(drawing, "w", "pool").bars, "execution") == [(1, 9, "done")]


def test_swimlanes_long_gaps_are_folded_and_the_rest_is_to_scale() -> None:
    scale = Scale([0, 10, 20, 40, 60_000, 60_010], LEFT, RIGHT)
    (fold,) = scale.folds
    assert (fold.x, fold.width, fold.lasted_ms) == (scale.x(40), FOLD, 59_960)
    assert round(scale.x(60_010)) == RIGHT
    assert round((scale.x(40) - scale.x(20)) / (scale.x(20) - scale.x(10)), 6) == 2
    assert scale.x(5) == (scale.x(0) + scale.x(10)) / 2


def test_scale_of_nothing_and_of_one_moment_does_not_fail() -> None:
    assert Scale([], LEFT, RIGHT).x(7) == LEFT
    assert Scale([3, 3], LEFT, RIGHT).x(3) == LEFT
    assert draw([]).description == "No events."


def test_labels_of_a_lane_do_not_overlap() -> None:
    drawing = draw(Moment(n / 10, kind, "w", 2) for n, kind in enumerate(["claimed", "started", "effect_begun"] * 5))
    for each in drawing.lanes:
        rows: dict[float, list[tuple[float, float]]] = {}
        for mark in each.marks:
            long = len(mark.text) * 6.7
            left = mark.text_x - (long if mark.anchor == "end" else 0)
            rows.setdefault(mark.text_y, []).append((left, left + long))
            assert left >= 0
            assert left + long <= WIDTH
            assert mark.text_y < each.y + each.height
        for row in rows.values():
            row.sort()
            assert all(before[1] < after[0] for before, after in itertools.pairwise(row))


def test_swimlanes_of_many_events_or_workers_say_that_they_are_truncated() -> None:
    many = draw(Moment(n, "started", "w", n) for n in range(1000))
    assert sum(len(each.marks) for each in many.lanes) == MOST_MOMENTS
    assert many.truncated
    assert "later events are not drawn" in many.description
    workers = draw(Moment(n, "received", f"w{n}", n) for n in range(20))
    assert workers.truncated
    assert len(workers.lanes) == 13
    assert not draw(KILLED).truncated
    assert "Not all of it is drawn" in render_to_string("admin/tasks_demo/swimlanes.html", {"drawing": many})


HOSTILE = "<script>alert(1)</script>\0\n\u202e" + "x" * 10_000


def test_swimlanes_hostile_text_is_text_and_nothing_is_inline() -> None:
    moments = [
        Moment(0, "received", HOSTILE, 1, note=HOSTILE),
        Moment(1, HOSTILE, HOSTILE, 2, note=HOSTILE),
        Moment(2, "claimed", HOSTILE, 2),
        Moment(3, "fault", HOSTILE, 2, injected=True, victim="child", point=HOSTILE),
    ]
    svg = render_to_string("admin/tasks_demo/swimlanes.html", {"drawing": draw(moments)})
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "\0" not in svg
    assert not re.search(r"\s(style|on\w+)=", svg)
    assert len(svg) < 30_000


def test_drawing_has_a_title_and_a_description_and_numbers_of_any_locale() -> None:
    from django.utils import translation

    with translation.override("de"):
        svg = render_to_string("admin/tasks_demo/swimlanes.html", {"drawing": draw(KILLED, name="one")})
    assert 'role="img" aria-labelledby="one-title one-desc"' in svg
    assert '<desc id="one-desc">11 events in 3.0 s on 7 lanes: 2 deliveries, 2 executions, 2 effects' in svg
    assert not re.search(r'(x|y|width)="\d+,\d', svg)
    assert "killed at effect_done" in svg


def test_durations() -> None:
    assert [duration(ms) for ms in (0, 0.42, 640.4, 4700, 200_000, 7_500_000)] == [
        "0 ms", "0.4 ms", "640 ms", "4.7 s", "3 min 20 s", "2 h 5 min",
    ]  # fmt: skip
