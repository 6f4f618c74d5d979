"""Fixtures of the doctor's tests."""

from tests.integration.doctor.doctor_command import server

__all__ = ["server"]
