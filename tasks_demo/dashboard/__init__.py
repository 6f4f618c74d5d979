"""The screens in Django's admin."""
