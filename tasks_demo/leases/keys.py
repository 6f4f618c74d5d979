"""Validate operation keys and the parameters of a lease store, and build Redis keys."""

from __future__ import annotations

import math
import unicodedata
from typing import Final
from urllib.parse import quote

from tasks_demo.core.exceptions import InvalidOperationKey, InvalidSetting

LONGEST_OPERATION: Final = 200

# Control characters, and the two separators that editors, logs and terminals show as a newline.
_UNPRINTABLE: Final = frozenset({"Cc", "Zl", "Zp"})


def validate_operation(key: object) -> str:
    """Return the operation key unchanged if it is 1 to 200 characters of printable text.

    Braces, ``*``, ``:``, spaces and every script are allowed. Raises InvalidOperationKey, never anything else.
    Does **not** normalise Unicode: two encodings of one accented letter are two operations.
    """
    if not isinstance(key, str):
        raise InvalidOperationKey(
            f"An operation key must be text, not {type(key).__name__}. Nothing was run. "
            "Write str(...) of what identifies the work."
        )
    if not key:
        raise InvalidOperationKey(
            "The operation key is empty: unrelated jobs would share it. Nothing was run. "
            "Name the work, for example 'order-17'."
        )
    if len(key) > LONGEST_OPERATION:
        raise InvalidOperationKey(
            f"The operation key has {len(key)} characters; {LONGEST_OPERATION} are allowed. Nothing was run. "
            "Use an identifier, or a hash of the long text."
        )
    if key.isprintable():  # nearly every key
        return key
    for position, character in enumerate(key):
        category = unicodedata.category(character)
        if category in _UNPRINTABLE:
            raise InvalidOperationKey(
                f"The operation key has a control character (U+{ord(character):04X}) at position {position}. "
                "Nothing was run. Use printable text."
            )
        if category == "Cs":
            raise InvalidOperationKey(
                f"The operation key has a lone surrogate (U+{ord(character):04X}) at position {position}, which UTF-8 cannot "
                "encode. Nothing was run. Decode the text correctly where it is read."
            )
    return key


def record_key(prefix: str, operation: str) -> str:
    """Return the Redis key ``<prefix>op:{<operation, percent-encoded>}``: different operations never share a key.

    There are no other braces in it, so that Redis Cluster hashes exactly the operation. Raises InvalidOperationKey, and
    InvalidSetting for a prefix with a brace.
    """
    if "{" in prefix or "}" in prefix:
        raise InvalidSetting(
            f"TASKS_DEMO_KEY_PREFIX is {prefix!r}; a brace in it would change the Redis Cluster hash slot of every lease. "
            "Remove the braces."
        )
    return f"{prefix}op:{{{quote(validate_operation(operation), safe='')}}}"


def check_durations(prefix: str, lease_seconds: float, retention_seconds: float) -> None:
    """Raise InvalidSetting for an invalid key prefix, lease duration or retention."""
    record_key(prefix, "any")
    if not 0 < lease_seconds < math.inf:
        raise InvalidSetting(f"A lease of {lease_seconds!r} s is not possible: write a number above zero.")
    if not lease_seconds <= retention_seconds < math.inf:
        raise InvalidSetting(
            f"A retention of {retention_seconds!r} s is shorter than the lease ({lease_seconds} s): "
            "Redis would delete the record while the lease is held. Make it longer than any message can wait, for example 7 days."
        )
