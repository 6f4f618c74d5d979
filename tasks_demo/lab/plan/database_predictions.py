"""Predicts what each pattern does when the database of its tables is killed while jobs run. Pure."""

from __future__ import annotations

from tasks_demo.lab.plan.outcomes import Prediction, predict


def after_database_kill(pattern: str) -> Prediction:
    """PostgreSQL, back after some seconds on what it had committed."""
    why = "Committed data is back after the restart. "
    if pattern == "acks_early":
        return predict(pattern, "The job and its pattern use no table of that database.", lost=False, twice=False)
    if pattern == "claim_first":
        return predict(
            pattern, why + "Without a claim the body does not run, and the message is acknowledged.", twice=False
        )
    if pattern == "outbox":
        why += "A job whose end could not be written into its row may run again; an unfinished row is published again."
        return predict(pattern, why, lost=False)
    if pattern == "inbox":
        return predict(
            pattern, why + "Booking and inbox entry are committed together or not at all, and the message is requeued."
        )
    why += "Lease and effect are on other servers. Attempts are counted in this database; without a count the body does not run."
    return predict(pattern, why, lost=False)
