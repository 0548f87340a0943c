"""Waiting, as in tests/flows."""

from tests.flows.conftest import wait_for

__all__ = ["wait_for"]
