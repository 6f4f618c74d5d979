"""Style and script of a page that is one file and loads nothing."""

from __future__ import annotations

from pathlib import Path

from django.contrib.staticfiles import finders
from django.utils.safestring import SafeString, mark_safe

BASE = "tasks_demo/standalone.css"


def styles(*names: str) -> SafeString:
    """The text of these static files, after that of the base, for a ``<style>`` element. Raises OSError."""
    return mark_safe("\n".join(map(_text, (BASE, *names))))  # noqa: S308  (our own files)


def script(name: str) -> SafeString:
    """The text of this static file, for a ``<script>`` element. Raises OSError."""
    return mark_safe(_text(name))  # noqa: S308


def _text(name: str) -> str:
    found = finders.find(name) or Path(__file__).parents[1] / "static" / name
    return Path(str(found)).read_text(encoding="utf-8")
