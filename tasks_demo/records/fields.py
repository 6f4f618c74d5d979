"""A column for JSON that must come back as it was written."""

from __future__ import annotations

import json
from typing import Any

from django.db import models


class JSONText(models.JSONField):
    """JSON kept as text: PostgreSQL's jsonb returns 1e16 as an int and -0.0 as 0.0, which is another digest.

    What is inside cannot be asked for in a query.
    """

    def get_internal_type(self) -> str:
        return "TextField"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return json.dumps(value, allow_nan=False)
