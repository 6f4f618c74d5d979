"""A database backend that is none of ours: it says MySQL, and cannot be connected to."""
