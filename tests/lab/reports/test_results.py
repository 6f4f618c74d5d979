"""The page of results is what its command makes of the results that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks_demo.lab.management.commands.results import (
    merged_with_other_patterns,
    progress,
    read,
    relier_measurements,
    write,
)
from tasks_demo.lab.plan.outcomes import Prediction
from tasks_demo.lab.reports.results import as_page, undetected
from tests.lab.reports.results import built, good, story
from tests.lab.verdict.histories import MAIN, Story
from tests.support import PROJECT

CONTROL = {("acks_late", "kill-main", "", "redis"): Prediction("broken", "A control.")}


def test_results_page_in_the_docs_is_made_from_the_results_in_the_docs() -> None:
    assert (PROJECT / "docs/results.md").read_text(encoding="utf-8") == as_page(
        read(PROJECT / "docs/results"), relier_measurements(PROJECT / "docs/results")
    )


def test_results_that_are_kept_are_read_and_give_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "redis-matrix.json.gz"
    write(file, [good()])
    before = file.read_bytes()
    assert read(tmp_path) == {("redis", "matrix"): [good()]}
    write(file, read(tmp_path)["redis", "matrix"])
    assert file.read_bytes() == before


def test_results_page_shows_each_broker_and_what_was_not_predicted() -> None:
    wrong = built(story("acks_late", "kill-main", again=False).end(), story("dedup_lock", "none"))
    documents = [
        {**document, "configuration": {"database": "sqlite"}}
        for document in (good(), wrong, built(story("acks_late", "kill-main", again=False).end(), predictions=CONTROL))
    ]
    page = as_page(
        {
            ("redis", "matrix"): documents[:1],
            ("rabbitmq", "matrix"): documents[1:2],
            ("redis", "controls"): documents[2:],
        }
    )
    assert page.index("## On redis") < page.index("## On rabbitmq")
    assert "| kill-main | 2 lost (2) |" in page
    assert "**2 lost (2) broken, not predicted**" in page
    assert "**unknown**" in page
    assert "| acks_late, kill-main | at least once | broken | 1 of 1 | 1 of 1 | 2 | 2 | 0 | A control. |" in page


def test_results_of_several_days_say_both_ends() -> None:
    found = {**good(), "configuration": {"database": "sqlite"}}
    days = [{**found, "seed": seed, "started_at": f"2026-11-{27 + seed}T09:00:00+00:00"} for seed in (0, 1, 2)]
    assert "Seeds 0 to 2, 2026-11-27 to 2026-11-29, " in as_page({("redis", "controls"): days})
    assert "Seeds 0 to 1, 2026-11-27, " in as_page({("redis", "controls"): [days[0], {**days[0], "seed": 1}]})


def test_campaign_counts_what_each_promise_excludes_over_all_seeds() -> None:
    documents = [
        {**built(*cells), "configuration": {"database": "sqlite"}}
        for cells in (
            [story("acks_late", "kill-main", charged=2).end(), story("dedup_lock", "kill-main", charged=1).end()],
            [story("acks_late", "kill-main", again=False).end(), story("dedup_lock", "kill-main", charged=1).end()],
        )
    ]
    page = as_page({("redis", "campaign"): documents})
    assert "| acks_late | at least once | 4 | 20 | 2 | 2 | 0 | 2 | 9023.9 in 10,000 |" in page, "twice is allowed"
    assert "| dedup_lock | effectively once | 4 | 20 | 0 | 0 |" in page
    assert "| 0 | 5271.3 in 10,000 |" in page


def soaked(pattern: str, *, lost: int = 0) -> dict[str, Any]:
    """One seed of a soak: two jobs, of which a killed worker held one."""
    story = Story(pattern, "load", broker="reliable").published("a", "b").ran("a")
    story.say("worker", pid=MAIN, detail={"state": "ready"}).delivered("b").begun("b")
    detail = {"what": "load", "main_pid": MAIN, "worker": "w1", "landed": True, "queued": 500, "unacked": 8}
    story.say("fault", detail=detail)
    if not lost:
        story.ran("b", 30)
    return {**built(story.end(load=2000)), "configuration": {"database": "sqlite", "command": "python …"}}


def test_soak_shows_what_is_lost_and_what_runs_again_for_each_kill() -> None:
    page = as_page({("reliable", "soak"): [soaked("acks_late") for _ in range(500)] + [soaked("inbox")]})
    assert (
        "| acks_late | at least once | 1,000 | 500 | 0 | 0 (0 to 0.0074) | 500 | 1 (0.91 to 1.1) | 500 | 0 | 0 |"
        in page
    )
    assert "| inbox | effectively once | 2 | 1 | 0 | 0 (0 to 3.7) |" in page
    assert "Seed 7, " in page, "of each pattern, whatever comes last"
    assert "1 (0.025 to 5.6)" in as_page({("redis", "soak"): [soaked("acks_late", lost=1)]})


def test_soaks_of_one_pattern_on_several_brokers_are_side_by_side() -> None:
    reliable = [soaked("acks_late"), soaked("inbox")]
    assert "side by side" not in as_page({("reliable", "soak"): reliable})
    page = as_page({("redis", "soak"): [soaked("acks_late", lost=1)], ("reliable", "soak"): reliable})
    compared = page[page.index("## Brokers side by side") : page.index("## On redis")]
    assert "| acks_late | redis | at least once | 2 | 1 | 1 | 1 (0.025 to 5.6) | 0 |" in compared
    assert "| acks_late | reliable | at least once | 2 | 1 | 0 | 0 (0 to 3.7) | 1 |" in compared
    assert "inbox" not in compared


def test_soak_of_one_pattern_leaves_those_of_others_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "reliable-soak.json.gz"
    for pattern in ("acks_late", "inbox", "acks_late"):
        write(file, merged_with_other_patterns(file, [soaked(pattern)]))
    assert read(tmp_path) == {("reliable", "soak"): [soaked("inbox"), soaked("acks_late")]}


def test_progress_of_a_soak_says_what_is_lost_so_far() -> None:
    line = progress("soak", [soaked("acks_late", lost=1) | {"duration_s": 120.0}] * 3, seeds=50)
    assert line == "soak: 3 of 50 seeds, 6 jobs, 3 lost, 3 faults injected, 3 cells not as predicted, about 94 min left"


def test_progress_of_a_campaign_says_how_much_is_left() -> None:
    line = progress("campaign", [good() | {"duration_s": 20.0}] * 2, seeds=8)
    assert line == "campaign: 2 of 8 seeds, 12 faults injected, no cells not as predicted, about 2 min left"


def test_control_that_holds_in_more_than_a_twentieth_of_the_seeds_is_named() -> None:
    seen = built(story("acks_late", "kill-main", again=False).end(), predictions=CONTROL)
    blind = built(story("acks_late", "kill-main").end(), predictions=CONTROL)
    assert undetected([seen] * 19 + [blind]) == []
    assert undetected([seen] * 18 + [blind] * 2) == ["acks_late, kill-main: as predicted in 18 of 20 seeds"]


def test_results_page_says_why_the_lab_cannot_run_a_library() -> None:
    seed = {"seed": 1, "jobs": 3000, "kills": 15, "lost": 1, "held": 9, "charged_twice": 2, "jobs_per_s": 18}
    first = seed | {"held_started": 2, "versions": {"relier": "0.1.7"}}
    page = as_page({}, [first, seed | {"seed": 2, "lost": 0}])
    for library in ("relier 0.1.7", "potatoq 26.1a8", "django-celery-outbox 0.4.3"):
        assert f"| {library} | " in page
    assert "| 1 | 3,000 | 15 | 1 | 9 | 2 | 2 | 18 |" in page
    assert "| 2 | 3,000 | 15 | 0 | 9 | – | 2 | 18 |" in page
    assert "| all | 6,000 | 30 | 1 | 18 | – | 4 |  |" in page
    assert "Per kill, 2 seeds, intervals two-sided, 95 % (Garwood): lost 0.0333 (0.00084 to 0.19), held" in page
    assert "relier under kills" not in as_page({})
