"""What every other package builds on: promises, points, settings, errors and databases."""
