"""Publish: the message and the wake marker of its queue in one step."""

from __future__ import annotations

from typing import Any

from kombu.utils.json import dumps

from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.lua import Client, Part, script


class Publishing:
    """For a Redis channel. The lists and the text of the messages are stock kombu's."""

    keys: Keys
    lists: Lists

    def create_publish_batch(self: Any, max_size: int) -> Any:
        self.plain().script_load(script("publish").source)  # a pipeline cannot send it when it is missing
        return super().create_publish_batch(max_size)  # type: ignore[misc]

    def _put(self: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        list_name, expires = self.lists.of(queue, message), self._expires.get(queue, "")
        # A batch's pipeline prefixes the first key by itself.
        keys = [list_name if batch else self.keys.prefix + list_name, self.keys.wake(queue)]
        if expires:
            keys += [self.keys.prefix + self.lists.at(queue, step) for step in self.lists.steps]
        args: list[Part] = [dumps(message), expires]
        if batch is None:
            client: Client = self.plain()
            script("publish").run(client, keys, args)
        else:
            batch.add("evalsha", script("publish").sha, len(keys), *keys, *args)
