"""Tasks that are wrong on purpose, and those of other libraries: the lab must see what each of them does.

One file each, with a sentence that says what is wrong and the cells in which it shows. They are imported, and become tasks, only
when ``experiment --control`` or ``--rival`` asks for them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks_demo.lab.controls.control import Control

_HERE = Path(__file__).parent
_NO_CONTROLS = {"control", "rivals"}
#: The names of the controls, and of the libraries that are tried as they are.
CONTROLS = sorted({found.name for found in pkgutil.iter_modules([str(_HERE)])} - _NO_CONTROLS)
RIVALS = sorted(found.name for found in pkgutil.iter_modules([str(_HERE / "rivals")]))


def find(name: str) -> Control | None:
    """Import and return the control of this name; None if there is none. Raises ImportError if its library is missing."""
    if name not in CONTROLS and name not in RIVALS:
        return None
    found: Control = getattr(_module(name), name)
    return found


def prepare(name: str, redis_url: str) -> None:
    """Import the control, and configure what it needs in this process. Raises ImportError if its library is missing."""
    configure = getattr(_module(name), "configure", None)
    if configure is not None:
        configure(redis_url)


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{'rivals.' if name in RIVALS else ''}{name}")
