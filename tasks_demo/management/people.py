"""Who runs a command, for what is kept of it."""

from __future__ import annotations

import getpass
import os


def who() -> str:
    """The system user's name, or the number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"
