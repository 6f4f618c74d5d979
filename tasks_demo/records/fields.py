"""Columns for untrusted content: JSON that must not be normalised, and text of any length."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.db import models


class JSONText(models.JSONField):
    """JSON stored as text: PostgreSQL's jsonb returns 1e16 as an int and -0.0 as 0.0, which would change the digest.

    Queries cannot use its content.
    """

    def get_internal_type(self) -> str:
        return "TextField"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return json.dumps(value, allow_nan=False)


def fit_column(text: str) -> str:
    """Return the text, or its digest if it is not 1 to 255 printable characters: task IDs come from publishers."""
    if len(text) <= 255 and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
