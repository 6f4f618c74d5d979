"""README, "Use a pattern in your own project", followed to the letter in an empty folder: its files, then its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tasks_demo.demo.stack.processes import spawn
from tests.snippets import commands, pieces
from tests.support import PROJECT, finish, until

pytestmark = pytest.mark.timeout(180)

README = (PROJECT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Use a pattern in your own project\n")[2].partition("\n## ")[0]
PIECES = list(pieces(SECTION, "README.md"))


def test_a_newcomer_who_follows_it_charges_once(redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "newcomer"
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
    env |= {"PYTHONPATH": f"{folder}:{PROJECT}", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}

    def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
        process = subprocess.Popen(
            command, cwd=folder, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        done = finish(process)
        assert done.code in codes, f"{command}: {done.out}{done.err}"
        return done.out + done.err

    run("django-admin", "startproject", "proj", ".")
    run("python", "manage.py", "startapp", "shop")
    settings = folder / "proj" / "settings.py"
    settings.write_text(settings.read_text().replace("INSTALLED_APPS = [", "INSTALLED_APPS = [\n    'shop',"))
    files = [piece for piece in PIECES if piece.kind in ("python", "setup")]
    assert len(files) == 4
    for piece in files:
        named = re.match(r"# ([a-z_/]+\.py)(?:; ([a-z_/]+\.py) says: (.+))?\n", piece.text)
        assert named, f"which file is this? {piece.text}"
        text = piece.text.replace('"redis://localhost:6379/0"', repr(redis_url.replace("unix://", "redis+socket://")))
        text = text.replace("TASKS_DEMO_REDIS_URL = CELERY_BROKER_URL", f"TASKS_DEMO_REDIS_URL = {redis_url!r}")
        with (folder / named[1]).open("a") as file:
            file.write(text)
        if named[2]:
            (folder / named[2]).write_text(named[3] + "\n")

    (block,) = [piece for piece in PIECES if piece.kind == "sh"]
    running = []
    try:
        for line in commands(block.text):
            words = shlex.split(line, comments=True)
            if words[0] == "celery" or "relay" in words:
                log = tmp_path / f"{len(running)}.log"
                program = str(Path(sys.executable).parent / words[0])
                running.append((spawn([program, *words[1:]], log=log, env=env, cwd=folder), log))
            else:
                assert "WARNING" not in run(*words)
        worker, relay = running
        until(lambda: " ready." in worker[1].read_text(), "the worker")
        until(lambda: "relay looks" in relay[1].read_text(), "the relay")
        answer = run(
            "python", "manage.py", "shell", "--no-imports", "-c",
            "from shop.tasks import charge\n"
            "calls = charge.delay(2, 5), charge.delay(2, amount=5), charge.delay(order_id=2, amount=5)\n"
            "print([call.get(timeout=20) for call in calls])\n"
            "from tasks_demo import outbox\nfrom django.db import transaction\n"
            "with transaction.atomic():\n    outbox.enqueue(charge, (3, 7))",
        )  # fmt: skip
        assert answer.strip() == str(["charge:2 5"] * 3), "every spelling of one call is one call"
        until(lambda: (folder / "charged").read_text() == "charge:2 5\ncharge:3 7\n", "both charges, each once")
        told = run("python", "manage.py", "doctor", codes=(0, 1))  # 1: this Redis may have no persistence
        assert "application        ok    proj" in told
    finally:
        for process, _ in running:
            process.stop(10)
