"""``python -m tasks_demo.lab.verdict``: exit codes, rejected input, and imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_demo.lab.verdict.__main__ import main
from tasks_demo.lab.verdict.checker import check
from tests.lab.verdict.histories import Story, healthy, killed, numbered, text


@pytest.mark.parametrize(
    ("story", "code"),
    [
        (healthy().end(), 0),
        (killed("acks_late", again=False).end(), 1),
        (healthy(), 3),
        (Story(), 3),
    ],
    ids=["held", "broken", "unknown", "empty"],
)
def test_command_exit_code(story: Story, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(text(story.events), encoding="utf-8")
    assert main([str(path)]) == code
    shown = capsys.readouterr().out
    assert main([str(path), "--json"]) == code
    cells = json.loads(capsys.readouterr().out)
    assert cells == [vars(cell) for cell in check(story.events)]
    assert all(cell["observed"] in shown for cell in cells)


def test_command_broken_promise_outranks_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    stories = [healthy("acks_early"), killed("acks_late", again=False).end()]
    path.write_text(text(numbered([event for story in stories for event in story.events])), encoding="utf-8")
    assert main([str(path)]) == 1


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "binary", "naive"])
def test_command_refuses_a_file_that_is_not_a_history(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    whole = text(healthy("naive" if damage == "naive" else "acks_late").end().events).encode()
    path.write_bytes({"truncated": whole[:-9], "rubbish": b"hello\n", "binary": b"\xff\x00\n", "naive": whole}[damage])
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "not a history that can be judged" in captured.err


def test_command_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2


def test_command_needs_no_django(tmp_path: Path) -> None:
    """In a separate interpreter where only the standard library and our package can be imported."""
    program = (
        "import sys\n"
        "class Shut:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'django', 'celery', 'kombu', 'redis', 'rich'}:\n"
        "            raise ImportError('shut out: ' + name)\n"
        "sys.meta_path.insert(0, Shut())\n"
        "from tasks_demo.lab.verdict.__main__ import main\n"
        "ours = {name for name in sys.modules if name.startswith('tasks_demo.')}\n"
        "allowed = {'tasks_demo.core', 'tasks_demo.core.semantics', 'tasks_demo.core.points', 'tasks_demo.core.wording',\n"
        "           'tasks_demo.lab', 'tasks_demo.lab.verdict', *('tasks_demo.lab.verdict.' + name for name in\n"
        "           ('__main__', 'checker', 'evidence', 'findings', 'history', 'quiescence', 'statistics', 'worker_holdings'))}\n"
        "assert ours <= allowed, ours - allowed\n"
        "sys.exit(main(['-', '--json']))\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=text(killed("dedup_lock").end().events),
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        timeout=60,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["recovered"] == 1


def test_command_prints_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "ev.jsonl"
    path.write_text(text(Story().published("приказ").ran("приказ").events), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tasks_demo.lab.verdict", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "unknown" in done.stdout
