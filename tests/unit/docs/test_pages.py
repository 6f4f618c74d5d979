"""Every command in README and docs exists and accepts its options: its own parser parses it, and it is not run.

The integration tests show that the snippets do what the page says.
"""

from __future__ import annotations

import argparse
import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tasks_demo.core.conf import Settings
from tasks_demo.demo.conf import DemoSettings
from tasks_demo.lab.conf import LabSettings
from tests.snippets import LANGUAGES, Piece, commands, everything, pages
from tests.support import PROJECT

EVERYTHING = everything()
#: The most blocks that may be excluded: each needs a reason in the page, and this number raised.
MOST_EXCEPTED = 3
NAMES_OF_OTHERS = {"cd", "export", "pip", "kill", "git", "cp", "docker", "curl"}


def test_pages_hold_what_is_known_and_little_is_excepted() -> None:
    assert sum(piece.kind == "python" for piece in EVERYTHING) >= 10, "the blocks are not found"
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
    """Parse the arguments with the command's own parser; raises SystemExit or CommandError if it rejects them."""
    owner = get_commands().get(name)
    assert owner, f"{where}: there is no manage.py {name}"
    command = owner if not isinstance(owner, str) else load_command_class(owner, name)
    parser = command.create_parser("manage.py", name)
    with suppress(AttributeError):
        parser._called_from_command_line = True  # type: ignore[attr-defined]  # or it raises what it would print
    if "--database" in arguments:  # the aliases depend on the project
        place = arguments.index("--database")
        arguments = arguments[:place] + arguments[place + 2 :]
    options = parser.parse_args(arguments)
    if name == "experiment" and not (options.replay or options.task):
        from tasks_demo.lab.plan.options import cells_for

        assert cells_for(vars(options), seed=1)[0], where


def _known(where: str, words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, rest = Path(words[0]).name, words[1:]
    if program.startswith("python") and rest[0] == "-m":
        if rest[1] == "tasks_demo.lab.verdict":
            assert [word for word in rest[2:] if not word.startswith("-")], where
            return
        if rest[1] == "tasks_demo.lab":
            words = rest[2:]
            if "--app" in words:
                del words[words.index("--app") : words.index("--app") + 2]
            _parsed(where, "experiment", words)
            return
        if rest[1] == "pytest":
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


@pytest.mark.parametrize(
    "path", sorted({piece.page for piece in EVERYTHING} | {"docs/reference/checks.md", "docs/explanation/choosing.md"})
)
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


PROSE = sorted({*pages(), PROJECT / "CHANGELOG.md"})


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(PROJECT)))
def test_settings_and_pages_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {name for name in (*vars(Settings), *vars(DemoSettings), *vars(LabSettings)) if name.isupper()}
    named = set(re.findall(r"TASKS_DEMO_([A-Z_]+)", text))
    assert named <= known, f"no such settings: {named - known}"
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")}
    assert not {link for link in links if not (path.parent / link).exists()}


def test_pages_of_commands_and_settings_name_every_one() -> None:
    page = (PROJECT / "docs/reference/commands.md").read_text(encoding="utf-8")
    commands = {path.stem for path in (PROJECT / "tasks_demo").glob("**/management/commands/[a-z]*.py")}
    assert not {name for name in commands if not re.search(rf"`{name}\b", page)}, "docs/reference/commands.md"
    page = (PROJECT / "docs/reference/settings.md").read_text(encoding="utf-8")
    settings = {name for name in (*vars(Settings), *vars(DemoSettings)) if name.isupper()}
    assert not {name for name in settings if f"`TASKS_DEMO_{name}`" not in page}, "docs/reference/settings.md"


def test_index_links_every_page_and_the_readme_is_short() -> None:
    index = PROJECT / "docs/README.md"
    linked = set(re.findall(r"\]\(([^)#]+\.md)", index.read_text(encoding="utf-8")))
    listed = {"decisions"}  # the index links the folder
    all_pages = {
        str(path.relative_to(index.parent)) for path in index.parent.rglob("*.md") if path.parent.name not in listed
    }
    assert not all_pages - linked - {"README.md"}, "pages that docs/README.md does not link"
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    "workflow", sorted((PROJECT / "examples" / "github-actions").glob("*.yml")), ids=lambda path: path.name
)
def test_commands_of_the_workflows_exist_and_take_their_options(workflow: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the development tools: `make install-dev`")
    [job] = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    assert sum("experiment" in line for line in lines) == 1
    for line in lines:
        _known(workflow.name, shlex.split(line.replace("${{ github.run_number }}", "17")))
