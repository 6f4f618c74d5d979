"""Columns that store what strangers chose: JSON that must not be normalised, and texts of any length."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.db import models


class JSONText(models.JSONField):
    """JSON kept as text: PostgreSQL's jsonb returns 1e16 as an int and -0.0 as 0.0, which is another digest.

    Queries cannot look inside.
    """

    def get_internal_type(self) -> str:
        return "TextField"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return json.dumps(value, allow_nan=False)


def fit_column(text: str) -> str:
    """The text, or its digest if it does not fit into 255 printable characters: publishers choose task IDs."""
    if len(text) <= 255 and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
