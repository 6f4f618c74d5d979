"""An app whose user model is known by an email address, and requires a nickname."""
