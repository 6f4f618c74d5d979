"""Fixtures of the doctor's tests."""

from tests.integration.doctor.doctor_ground import server

__all__ = ["server"]
