"""Invented histories that fill a ledger, for trying the dashboard at scale (``manage.py seed_ledger``).

Part of the demo, not of the library: a production ledger is evidence, and no code there should be able to fake it.
"""
