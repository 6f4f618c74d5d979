"""What a message holds, as text for a column: serialised by kombu as Celery serialises it, so that it comes back as it was.

JSON of kombu's is ASCII, and escapes whatever a text column refuses (NUL, half surrogate pairs); bytes of other serialisations
become base64.
"""

from __future__ import annotations

import base64
from typing import Any

from kombu import serialization


def packed(content: Any, serializer: str) -> tuple[str, str, str]:
    """The content as text, its content type and its encoding. Raises EncodeError, and SerializerNotInstalled."""
    kind, encoding, data = serialization.dumps(content, serializer=serializer)
    if isinstance(data, bytes):
        data = base64.b64encode(data).decode()
    return data, kind, encoding


def unpacked(text: str, kind: str, encoding: str, accept: Any) -> Any:
    """The content again. ``accept``: names or content types; anything else raises ContentDisallowed. Raises DecodeError, too."""
    data: str | bytes = base64.b64decode(text) if encoding == "binary" else text
    return serialization.loads(data, kind, encoding, accept=serialization.prepare_accept_content(accept))
