"""The lease on an operation: who may run it now, whether it is completed, and which writes are stale."""
