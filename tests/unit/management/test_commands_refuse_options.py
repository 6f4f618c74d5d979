"""Every command rejects an option that another one makes useless, before it asks or opens anything."""

from __future__ import annotations

import pytest
from django.core.management import get_commands, load_command_class

REFUSED = [
    ("relay", "--check 60 --once", "--check publishes nothing, so --once would have no effect"),
    ("relay", "--check 60 --batch 100 --interval 0.5 --no-reconcile", "--batch, --interval, --no-reconcile"),
    ("relay", "--batch 1001", "--batch is 1 to 1000"),
    ("relay", "--interval 0", "write 0.01 to 60 seconds"),
    ("relay", "--once --interval 0.5", "--interval would have no effect"),
    ("quarantine", "--why because", "list does not make one"),
    ("quarantine", "list --all --why because", "list does not make one"),
    ("quarantine", "show x --why because", "show does not make one"),
    ("quarantine", "show x --all", "show takes one or more task IDs"),
    ("quarantine", "list x", "list takes no task ID"),
    ("quarantine", "requeue", "requeue takes one or more task IDs, or --all"),
    ("quarantine", "discard x --all", "discard takes one or more task IDs, or --all"),
    ("benchmark", "--only kills --rounds 3", "--rounds would have no effect: kills has none"),
    ("benchmark", "--only recovery kills --rounds 3", "--rounds would have no effect: kills, recovery"),
    ("benchmark", "--only latency start --tasks 10", "--tasks would have no effect: latency, start"),
    ("bank", "--fd 3 --port 0", "leave out --host and --port"),
    ("bank", "--fd 3 --host 127.0.0.1", "leave out --host and --port"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), REFUSED, ids=lambda value: value[:50])
def test_command_with_unknown_option_is_refused(
    name: str, arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = load_command_class(get_commands()[name], name)
    with pytest.raises(SystemExit) as left:
        command.run_from_argv(
            ["manage.py", name, *arguments.split(), *(["--skip-checks"] if command.requires_system_checks else [])]
        )
    told = capsys.readouterr()
    assert (left.value.code, told.out) == (2, ""), told
    assert said in told.err
