"""Turns options and a seed into cells with victims, and predicts what each cell shows."""
