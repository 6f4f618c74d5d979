"""The tables of the patterns, as a separate Django app. They belong in the database of your business data."""
