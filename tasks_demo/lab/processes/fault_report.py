"""What the lab says of a fault that it has injected, or could not inject. Travels into the history."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultReport:
    """One fault at one victim. ``injected`` False: ``why`` says what was missing. ``seconds``: how long a pause lasted.

    Under load: the name of the ``worker``; ``queued`` and ``unacked`` messages when it was killed; its own ``memory``, bytes.
    ``connections``: how many of the cell's workers were open when they were disturbed.
    Of a hostile message: ``message`` is its kind, ``ended`` where it ended, ``seconds`` until the next job was done.
    """

    what: str
    victim: str
    injected: bool = False
    why: str = ""
    point: str = ""
    pid: int | None = None
    main_pid: int | None = None
    child_pid: int | None = None
    died: str = ""
    seconds: float | None = None
    message: str = ""
    ended: str = ""
    worker: str = ""
    queued: int | None = None
    unacked: int | None = None
    memory: int | None = None
    connections: int | None = None

    def detail(self) -> dict[str, Any]:
        """Return the detail of its event. There ``injected`` is called ``landed``, as in all stored histories."""
        detail = asdict(self)
        return {"landed": detail.pop("injected"), **detail}
