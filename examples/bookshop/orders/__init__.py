"""Orders, what was charged for them, and the jobs that do it."""
