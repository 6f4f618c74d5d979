"""Two faults in one cell, at the same job and moment: which go together, and what follows for the promise. Pure."""

from __future__ import annotations

from typing import NamedTuple

from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import DUPLICATED, LOST, Prediction

PLUS = " + "
#: What can be the first of two: it hits a process, or the connections. The second then happens to the same job.
OF_A_PROCESS = (
    *(Fault.KILL_CHILD, Fault.KILL_MAIN, Fault.KILL_GROUP, Fault.TERM, Fault.QUIT, Fault.STOP, Fault.OUT_OF_MEMORY),
)
OF_A_CONNECTION = tuple(fault for fault in Fault if fault.of_connection)
#: The kinds of faults that go together, one of each of two kinds, in the order in which they are written.
KINDS = (OF_A_PROCESS, OF_A_CONNECTION, (Fault.DOUBLE_PUBLISH,))


class Combined(NamedTuple):
    """Both at one job. Connections are disturbed first, and a process is killed while they are."""

    first: Fault
    also: Fault

    def __str__(self) -> str:
        return f"{self.first}{PLUS}{self.also}"


def parse(name: str) -> Fault | Combined:
    """``kill-main``, or ``kill-main + cut`` in any order. Raises ValueError with a sentence for a person."""
    words = [word.strip() for word in name.split(PLUS.strip())] if name.strip() != PLUS.strip() else [name]
    known = [str(fault) for fault in Fault if fault is not Fault.LOAD]
    for word in words:
        if word not in known and name != Fault.LOAD:
            raise ValueError(
                f"Unknown fault {word!r}: write {', '.join(known)}; or two of them in quotes, as in 'kill-main + cut'."
            )
    if len(words) == 1:
        return Fault(words[0])
    if len(words) > 2:
        raise ValueError(f"--fault '{name}': two faults can be combined, not {len(words)}.")
    faults = {Fault(word) for word in words}
    if len(faults) == 1:
        raise ValueError(f"--fault '{name}' names one fault twice: write {words[0]}.")
    found = [fault for kind in KINDS for fault in kind if fault in faults]
    if len(found) < 2 or any(faults <= set(kind) for kind in KINDS):
        why = next((f"{fault} {_alone(fault)}. " for fault in sorted(faults) if _alone(fault)), "")
        raise ValueError(
            f"--fault '{name}': these two cannot be combined. {why}One of "
            f"{'; one of '.join(', '.join(kind) for kind in KINDS[:2])}; and {KINDS[2][0]}: "
            "two of these three kinds go together."
        )
    return Combined(*found)


def _alone(fault: Fault) -> str:
    """Why this fault goes together with no other; "" if it may, or if the list says enough."""
    if fault.once_per_cell:
        return "is injected once in a cell, and not at a particular job"
    if fault is Fault.CLOCK_JUMP:
        return "is known to have happened by what its victim does next, in the wrong time: it must go on undisturbed"
    return ""


def parts(fault: Fault | Combined) -> tuple[Fault, Fault]:
    """The fault that is aimed, and the other one; NONE if there is no other."""
    return (fault.first, fault.also) if isinstance(fault, Combined) else (fault, Fault.NONE)


def description(name: str) -> str:
    """One line about a fault, or two; empty for a name that is unknown here."""
    try:
        found = parse(name)
    except ValueError:
        return ""
    if isinstance(found, Fault):
        return found.description
    return f"{found.also.description}; and at the same moment: {found.first.description}"


def predict_both(pattern: str, one: Prediction, other: Prediction) -> Prediction:
    """What may be seen is what either of the two may show. It must be seen where both say so, because one can undo what the
    other does: a message that a cut connection brings back is not lost with the killed process.

    Where that leaves open something that the promise forbids, chance decides: ``open``.
    """
    effects = PROMISES[pattern].effects
    forbidden = {what for what, count in ((LOST, 0), (DUPLICATED, 2)) if count not in effects}
    required, excluded = one.required & other.required, one.excluded & other.excluded
    outcome = "broken" if required & forbidden else "held" if forbidden <= excluded else "open"
    why = f"What either fault may show, two together may: {one.why} {other.why}"
    return Prediction(outcome, why, required, excluded)
