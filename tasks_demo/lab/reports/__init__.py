"""Writes the results of an experiment: text, JSON and pages."""
