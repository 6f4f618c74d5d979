"""The tables of the patterns, an application of their own: install it in the database of your business data."""
