"""Findings about a cell, in sentences, and the verdict that follows from them. Pure."""

from __future__ import annotations

from tasks_demo.core.semantics import Bounds

#: A verdict is explained in at most this many sentences.
REASONS = 10


class Sentences:
    """Keeps the first few sentences and counts them all."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def say(self, sentence: str) -> None:
        self.count += 1
        if self.count <= REASONS:
            self.first.append(sentence)

    def __bool__(self) -> bool:
        return self.count > 0


class Findings:
    """Sentences by their effect on the verdict, and the operations whose promise is broken."""

    def __init__(self, contradictions: Sentences) -> None:
        self.contradictions = contradictions
        self.exceeded, self.missing, self.unmet, self.doubts = Sentences(), Sentences(), Sentences(), Sentences()
        self.violated: set[str] = set()

    def verdict(self) -> tuple[str, list[str]]:
        """``held``, ``broken`` or ``unknown``, and at most ten reasons."""
        order = [
            (self.contradictions, "unknown"),
            (self.exceeded, "broken"),
            (self.missing, "unknown"),
            (self.unmet, "broken"),
            (self.doubts, "unknown"),
        ]
        if self.missing:
            del order[3]  # the missing evidence may be that the bound was reached
        observed = next((verdict for sentences, verdict in order if sentences), "held")
        reasons = [sentence for sentences, _ in order for sentence in sentences.first]
        total = sum(sentences.count for sentences, _ in order)
        if total > REASONS:
            reasons[REASONS - 1 :] = [f"and {total - REASONS + 1} more findings"]
        return observed, reasons


def name(text: str) -> str:
    """Return a task ID or an operation for use in a sentence: short and printable, whatever it contains."""
    shown = text if text.isprintable() and text else ascii(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def bounds_in_words(bounds: Bounds) -> str:
    """What the bounds promise, as words."""
    if bounds.most is None:
        return f"at least {bounds.least} promised"
    return f"exactly {bounds.least} promised" if bounds.least == bounds.most else f"at most {bounds.most} promised"


def count_or_no(count: int, what: str) -> str:
    """``no effect``, ``1 effect``, ``2 effects``."""
    return f"{count or 'no'} {what}{'' if count <= 1 else 's'}"
