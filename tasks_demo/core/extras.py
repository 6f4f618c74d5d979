"""Optional dependencies: name the extra to install when one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from django.core.exceptions import ImproperlyConfigured


def needs(part: str, extra: str, *modules: str) -> None:
    """Raise ImproperlyConfigured if one of the modules cannot be imported, with the command that installs the extra."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise ImproperlyConfigured(
            f"{part} needs packages that are not installed here ({', '.join(missing)}). In a checkout of this "
            f"package's repository, run: pip install '.[{extra}]'"
        )
