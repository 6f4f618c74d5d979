"""``python -m tasks_demo.lab``: what cannot be tried, with its exit code and a sentence."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from celery.exceptions import CDeprecationWarning

from tests.lab.conftest import SHOP, Plain
from tests.support import PROJECT

pytestmark = pytest.mark.timeout(420)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "shop.chargee"], "Did you mean shop.charge"),
        (["--task", "shop.charge", "--args", "{folder}/bad.jsonl"], "bad.jsonl, line 2: "),
        (["--task", "shop.charge", "--args", "{folder}/wrong.jsonl"], "wrong.jsonl, line 1: shop.charge cannot be called"),
        (["--task", "shop.charge"], "without --args: shop.charge cannot be called like that"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--effects", "shop.app:nobody"], "cannot be imported"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--point", "claimed"], "never reaches claimed"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--point", "effect_done"], "never reaches effect_done"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "poison"], "it parks nothing"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "database-kill"], "servers that it starts"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--fault", "cut-claim"], "only connections to its broker"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--tasks", "7"], "more than the 6 lines"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--pattern", "inbox"], "--pattern is about the jobs of the demo"),
        (["--task", ""], "argument --task: the value is empty"),
        (["--task", "shop.charge", "--args", ""], "argument --args: the value is empty"),
        (["--task", "shop.charge", "--args", "orders.jsonl", "--effects", " "], "argument --effects: the value is empty"),
        (["--effects", "shop.app:charges", "--args", "x"], "--args, --effects would do nothing here"),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_lab_refuses_what_cannot_be_tried_with_exit_2_and_a_sentence(
    standing: Callable[[list[str]], None],
    plain: Plain,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (plain.folder / "bad.jsonl").write_text('["a"]\n["b"\n', encoding="utf-8")
    (plain.folder / "wrong.jsonl").write_text('{"customer": "a"}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        standing([argument.format(folder=plain.folder) for argument in arguments])
    captured = capsys.readouterr()
    assert left.value.code == 2
    assert said in captured.err
    assert captured.out == ""


@pytest.fixture(scope="module")
def standing() -> Iterator[Callable[[list[str]], None]]:
    """The command in this process, in the example's folder, with the example's app as the current one."""
    from celery import _state, current_app

    from tasks_demo.lab.management.commands.experiment import Command

    before = current_app._get_current_object()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SHOP))
        patch.chdir(SHOP)
        # Its tasks are shared, and one names its queue: in the process of the tests, apps made later would inherit both.
        finalizers = set(_state._on_app_finalizers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CDeprecationWarning)
            app = import_module("shop.app").app
            app.finalize()
        _state._on_app_finalizers.intersection_update(finalizers)
        app.set_current()
        yield lambda arguments: Command().run_from_argv(["manage.py", "experiment", *arguments])
        _state._set_current_app(before)
        _state.set_default_app(before)
        for name in ("shop", "shop.app"):
            del sys.modules[name]


def test_lab_without_an_app_or_with_one_that_cannot_be_imported(plain: Plain) -> None:
    nothing, broken = plain.lab("--task", "shop.charge", app=""), plain.lab("--task", "shop.charge", app="shop.nowhere")
    taskless = plain.lab("--fault", "none")
    assert (nothing.code, broken.code, taskless.code) == (2, 4, 2)
    assert "Name a task" in taskless.sentence()
    assert "Name the Celery app" in nothing.sentence()
    assert "--app shop.nowhere cannot be imported" in broken.sentence()


def test_lab_without_a_usable_state_folder_is_exit_4_and_a_sentence(plain: Plain) -> None:
    (plain.folder / "file").touch()
    (plain.folder / "taken" / "ledger.sqlite3").mkdir(parents=True)
    for state, why in {
        plain.folder / "file": "File exists",
        plain.folder / "file" / "below": "Not a directory",
        plain.folder / "taken": "unable to open database file",
    }.items():
        done = plain.lab("--task", "shop.charge", env={"STATE_DIR": str(state)})
        assert done.code == 4, done.err
        assert f"The state folder {state} (STATE_DIR) cannot be used: {why}. Nothing was run." in done.sentence()


def test_import_that_fails_or_is_interrupted_exits_with_4_or_130_and_a_sentence(plain: Plain) -> None:
    (plain.folder / "needy.py").write_text("import os\nSECRET_KEY = os.environ['NOBODY_SETS_THIS']\n")
    (plain.folder / "leaves.py").write_text("raise SystemExit('usage: leaves')\n")
    (plain.folder / "slow.py").write_text("raise KeyboardInterrupt  # Ctrl-C while it is imported\n")
    env = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{plain.folder}"}
    needy = plain.lab("--task", "x", app="", env={**env, "DJANGO_SETTINGS_MODULE": "needy"})
    leaves, slow = (plain.lab("--task", "x", app=f"{name}:app", env=env) for name in ("leaves", "slow"))
    assert (needy.code, leaves.code, slow.code) == (4, 4, 130), needy.err + leaves.err + slow.err
    assert slow.err == "Interrupted before anything ran.\n"
    assert "The lab cannot start here: KeyError: 'NOBODY_SETS_THIS'. Nothing was run." in needy.sentence()
    assert "--app leaves:app cannot be imported: SystemExit: usage: leaves. " in leaves.sentence()
