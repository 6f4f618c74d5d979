"""Servers of the lab's own, which it may kill."""
