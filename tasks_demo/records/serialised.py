"""Convert the content of a message to text for a column and back, with kombu's serializers, so that it is restored unchanged.

kombu's JSON is ASCII and escapes what a text column refuses (NUL, lone surrogates); bytes of other serializers become base64.
"""

from __future__ import annotations

import base64
from typing import Any

from kombu import serialization


def packed(content: Any, serializer: str) -> tuple[str, str, str]:
    """Return the content as text, its content type and its encoding. Raises EncodeError and SerializerNotInstalled."""
    kind, encoding, data = serialization.dumps(content, serializer=serializer)
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    return data, kind, encoding


def unpacked(text: str, kind: str, encoding: str, accept: Any) -> Any:
    """Return the content. ``accept``: names or content types; others raise ContentDisallowed. Raises DecodeError."""
    data: str | bytes = base64.b64decode(text) if encoding == "binary" else text
    return serialization.loads(data, kind, encoding, accept=serialization.prepare_accept_content(accept))
