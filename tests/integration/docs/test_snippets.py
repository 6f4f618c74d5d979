"""Run every snippet of README and docs from the page itself. ``tests/snippets.py`` describes the markup.

tests/unit/docs/test_pages.py covers commands that are shown and not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.snippets import everything, printed, session
from tests.support import PROJECT, free_port, until

pytestmark = pytest.mark.timeout(480)

EVERYTHING = everything()
PYTHON = [piece for piece in EVERYTHING if piece.kind == "python" and not piece.skipped]
#: Pages whose Python blocks are the files of a separate project, and the test that creates and runs it.
PROJECTS = {
    "README.md": "test_readme_adoption.py",
    "docs/how-to/adopt.md": "test_readme_adoption.py",
    "docs/how-to/metrics.md": "../metrics/test_metrics.py",
    "docs/how-to/testing.md": "../testing/test_other_projects.py",
    "docs/how-to/test-your-own-tasks.md": "../../lab/test_pytest_plugin.py",
    "docs/tutorial/test-a-task.md": "../../lab/test_pytest_plugin.py",
}
#: All other pages run in the bookshop.
PAGES = sorted({piece.page for piece in PYTHON} - PROJECTS.keys())


# -- sessions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted({piece.page for piece in EVERYTHING if piece.kind == "console"}))
def test_session_prints_what_the_page_shows(page: str, tmp_path: Path) -> None:
    """The blocks of a page are one session, in a shell, on a separate port."""
    port = str(free_port())
    steps = [
        step
        for piece in EVERYTHING
        if piece.page == page and piece.kind == "console" and not piece.skipped
        for step in session(piece.text.replace("8001", port))
    ]
    env = {**os.environ, "STATE_DIR": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = tmp_path / "said"
    with said.open("w") as output:
        shell = subprocess.Popen(
            ["/bin/bash", "-m"], cwd=PROJECT, env=env, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True
        )
        assert shell.stdin is not None
        try:
            seen = 0
            for number, (command, expected) in enumerate(steps):
                shell.stdin.write(f"{command}\n" + ("" if command.endswith("&") else f"echo; echo =={number}==\n"))
                shell.stdin.flush()
                told = printed(expected)

                def answered(told: re.Pattern[str] = told, seen: int = seen, mark: str = f"=={number}==\n") -> bool:
                    text = said.read_text()[seen:]
                    return bool(told.search(text)) if command.endswith("&") else mark in text  # noqa: B023

                until(answered, f"{page}: {command}", 180)
                text = said.read_text()[seen:]
                assert told.search(text), f"{page}: $ {command}\n{text}\ninstead of\n{expected}"
                seen += len(text)
        finally:
            started = psutil.Process(shell.pid).children()
            for process in started:
                process.terminate()
            psutil.wait_procs(started, timeout=30)
            shell.kill()
            shell.communicate(timeout=10)


@pytest.mark.parametrize(("page", "by"), PROJECTS.items())
def test_page_with_a_project_of_its_own_is_run_by_its_test(page: str, by: str) -> None:
    assert Path(page).name in (Path(__file__).parent / by).read_text(encoding="utf-8")
    blocks = [piece for piece in PYTHON if piece.page == page]
    nameless = [piece.where for piece in blocks if not re.match(r"# [a-z_/]+\.py\b", piece.text)]
    assert blocks
    assert not nameless, f"which file is this? {nameless}"


# -- Python ------------------------------------------------------------------------------------------------------------------


def _module(page: str) -> str:
    return "page_" + re.sub(r"\W", "_", page.removesuffix(".md"))


def _own_names(page: str, code: str) -> str:
    """Rename tasks per page: two pages may show a task of the same name, and one worker runs both."""
    return code.replace('name="shop.', f'name="{_module(page)}.')


@pytest.fixture(scope="module")
def shop(bank_url: str) -> Iterator[Bookshop]:
    with opened(settings={"BANK_URL": bank_url, "TASKS_DEMO_BANK_URL": bank_url}) as project:
        yield project


@pytest.fixture(scope="module")
def ran(shop: Bookshop) -> dict[str, str]:
    """The outcome of each page, "" or a traceback: one interpreter runs the pages, one worker their tasks."""
    for page in PAGES:
        code: list[str] = []
        for piece in EVERYTHING:
            declares = piece.kind == "setup" or (piece.kind == "python" and ".task(" in piece.text)
            if piece.page == page and declares and not piece.skipped:
                code.append(_own_names(page, piece.text))
        (shop.folder / f"{_module(page)}.py").write_text("\n".join(code), encoding="utf-8")
    shop.home.extra["PYTHONPATH"] += f":{shop.folder}"
    script = [_HARNESS]
    for page in PAGES:
        pieces = [piece for piece in EVERYTHING if piece.page == page and piece.kind in ("setup", "python", "check")]
        parts = [(piece.line, _own_names(page, piece.text)) for piece in pieces if not piece.skipped]
        script.append(f"run({page!r}, {_module(page)!r}, {parts!r})")
    script.append("print('\\n=>' + json.dumps(outcome))")
    with shop.worker("-I", ",".join(_module(page) for page in PAGES)) as worker:
        done = shop.python("\n".join(script), timeout=240)
    assert done.code == 0, done.err + worker.said[-3000:]
    outcome: dict[str, str] = _json(done.out.rpartition("\n=>")[2])
    return {page: told and f"{told}\n{worker.said[-3000:]}" for page, told in outcome.items()}


def _json(text: str) -> Any:
    import json

    return json.loads(text)


_HARNESS = """
import json, time, traceback
outcome = {}

def until(evidence, what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not evidence():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)

def run(page, module, parts):
    names = {"__name__": module, "app": app, "until": until}
    outcome[page] = ""
    for line, text in parts:
        try:
            # The page's own line numbers.
            exec(compile("\\n" * line + text, page, "exec"), names)
        except BaseException:
            outcome[page] += f"block at line {line}:\\n" + traceback.format_exc()
"""


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_and_do_what_the_page_says(page: str, ran: dict[str, str]) -> None:
    assert ran[page] == ""
