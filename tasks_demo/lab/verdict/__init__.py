"""Judges a recorded history. Pure functions."""
