"""Every snippet of README and docs, from the page itself: see ``snippets`` for how a page says what is to be done with it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from tests.integration.snippets import LANGUAGES, Piece, commands, everything, printed, session
from tests.integration.stranger import Stranger, opened
from tests.support import PROJECT, until

pytestmark = pytest.mark.timeout(240)

EVERYTHING = everything()
PYTHON = [piece for piece in EVERYTHING if piece.kind == "python" and not piece.skipped]
#: Pages whose Python runs in the bookshop. README's is followed in an empty folder: test_readme_adoption.
PAGES = sorted({piece.page for piece in PYTHON} - {"README.md"})
#: At most so many blocks may be excepted: an exception needs a reason in the page, and a look here.
MOST_EXCEPTED = 3
NAMES_OF_OTHERS = {"cd", "export", "pip", "kill", "git", "cp", "docker", "curl"}


def test_pages_hold_what_is_known_and_little_is_excepted() -> None:
    assert len(PYTHON) >= 10, "the blocks are not found"
    unknown = [piece.where for piece in EVERYTHING if piece.kind not in LANGUAGES | {"setup", "check"}]
    assert not unknown, f"write one of {sorted(LANGUAGES)} behind the three ticks: {unknown}"
    commands_as_text = [
        piece.where
        for piece in EVERYTHING
        if piece.kind == "text" and re.search(r"^\s*(\$ |make |python |manage\.py |celery |\.venv)", piece.text, re.M)
    ]
    assert not commands_as_text, f"these are commands: {commands_as_text}"
    excepted = [f"{piece.where}: {piece.skipped}" for piece in EVERYTHING if piece.skipped]
    assert len(excepted) <= MOST_EXCEPTED, excepted


# -- commands ----------------------------------------------------------------------------------------------------------------


def _parsed(where: str, name: str, arguments: list[str]) -> None:
    """The command's own parser takes the arguments. Raises SystemExit or CommandError otherwise."""
    owner = get_commands().get(name)
    assert owner, f"{where}: there is no manage.py {name}"
    command = owner if not isinstance(owner, str) else load_command_class(owner, name)
    parser = command.create_parser("manage.py", name)
    with suppress(AttributeError):
        parser._called_from_command_line = True  # type: ignore[attr-defined]  # or it raises what it would print
    if "--database" in arguments:  # which there are depends on the project
        place = arguments.index("--database")
        arguments = arguments[:place] + arguments[place + 2 :]
    options = parser.parse_args(arguments)
    if name == "experiment" and not options.replay:
        from tasks_demo.lab.asked import cells_for

        assert cells_for(vars(options), seed=1)[0], where


def _known(where: str, words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, rest = Path(words[0]).name, words[1:]
    if program.startswith("python") and rest[0] == "-m":
        if rest[1] == "tasks_demo.lab.checkers":
            assert [word for word in rest[2:] if not word.startswith("-")], where
            return
        pytest.fail(f"{where}: what is python -m {rest[1]}?")
    if program.startswith("python") and rest[0].endswith("manage.py"):
        program, rest = "manage.py", rest[1:]
    if program == "manage.py":
        _parsed(where, rest[0], rest[1:])
    elif program == "make":
        makefile = (PROJECT / "Makefile").read_text()
        targets = [word for word in rest if "=" not in word]
        assert all(re.search(rf"^{re.escape(target)}:", makefile, re.M) for target in targets), (
            f"{where}: make {targets}"
        )
        for variable, _, value in (word.partition("=") for word in rest if "=" in word):
            assert re.search(rf"^{variable} \?=", makefile, re.M), f"{where}: make knows no {variable}"
            if variable == "BENCH_ARGS":
                _parsed(where, "benchmark", shlex.split(value))
    elif program == "celery":
        from celery.bin.celery import celery

        command = celery.commands[next(word for word in rest[2:] if not word.startswith("-"))]
        known = {option for parameter in (*celery.params, *command.params) for option in parameter.opts}
        given = {word.split("=")[0] for word in rest if word.startswith("-")}
        assert given <= known, f"{where}: celery knows no {given - known}"
    elif program == "django-admin":
        assert rest[0] in ("startproject", "startapp"), where
    else:
        assert program in NAMES_OF_OTHERS, f"{where}: how is {program!r} to be checked?"


@pytest.mark.parametrize(
    "piece", [piece for piece in EVERYTHING if piece.kind == "sh" and not piece.skipped], ids=lambda piece: piece.where
)
def test_commands_exist_and_take_their_options(piece: Piece, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(piece.text)
    assert found, "an empty block"
    for line in found:
        try:
            words = shlex.split(line, comments=True)
            while words:
                end = next((number for number, word in enumerate(words) if word in ("&&", "|", ";", "&")), len(words))
                _known(piece.where, words[:end])
                words = words[end + 1 :]
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{piece.where}: {line}: {error} {capsys.readouterr().err}")


INLINE = re.compile(r"`(?:\.venv/bin/)?(?:python )?manage\.py ([a-z_]+)((?: [^`]*)?)`|`make ([a-z-]+)[^`]*`")


@pytest.mark.parametrize("path", sorted({piece.page for piece in EVERYTHING} | {"docs/checks.md", "docs/choosing.md"}))
def test_commands_in_sentences_exist(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for found in INLINE.finditer((PROJECT / path).read_text(encoding="utf-8")):
        command, arguments, target = found.groups()
        try:
            if target:
                _known(path, ["make", target])
            elif "…" in arguments or "..." in arguments or "|" in arguments:
                assert command in get_commands(), found[0]
            else:
                options = load_command_class(get_commands()[command], command).create_parser("manage.py", command)  # type: ignore[arg-type]
                known = {name for action in options._actions for name in action.option_strings}
                given = {word.split("=")[0] for word in shlex.split(arguments) if re.match(r"--[a-z]", word)}
                assert given <= known, f"{path}: {found[0]}"
        except KeyError:
            pytest.fail(f"{path}: there is no manage.py {command}")


# -- sessions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted({piece.page for piece in EVERYTHING if piece.kind == "console"}))
def test_a_session_prints_what_the_page_shows(page: str, tmp_path: Path) -> None:
    """The blocks of a page are one session, in a shell, at a port of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
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

                until(answered, f"{page}: {command}")
                text = said.read_text()[seen:]
                assert told.search(text), f"{page}: $ {command}\n{text}\ninstead of\n{expected}"
                seen += len(text)
        finally:
            shell.communicate("kill $(jobs -p)\nexit\n", timeout=10)


# -- Python ------------------------------------------------------------------------------------------------------------------


def _module(page: str) -> str:
    return "page_" + re.sub(r"\W", "_", page.removesuffix(".md"))


def _own_names(page: str, code: str) -> str:
    """Two pages may show a task of the same name, and one worker runs both."""
    return code.replace('name="shop.', f'name="{_module(page)}.')


@pytest.fixture(scope="module")
def shop(bank_url: str) -> Iterator[Stranger]:
    with opened(settings={"BANK_URL": bank_url, "TASKS_DEMO_BANK_URL": bank_url}) as project:
        yield project


@pytest.fixture(scope="module")
def ran(shop: Stranger) -> dict[str, str]:
    """What became of each page, in one interpreter, its tasks in one worker: "" or a traceback."""
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
        done = shop.python("\n".join(script), timeout=120)
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
