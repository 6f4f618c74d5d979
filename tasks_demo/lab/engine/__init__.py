"""Runs the cells of a plan: publishes jobs, injects faults, drains the queues."""
