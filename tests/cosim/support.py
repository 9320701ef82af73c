"""What the tests that run simulators share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / "build" / "sim"
"""Kept builds of the tests."""


def needs(simulator: str) -> None:
    """Skip the test where an optional simulator is not installed."""
    if simulator == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("Icarus is not installed")
