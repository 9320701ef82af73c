"""Fixtures and helpers of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

NO_TORCH = "needs PyTorch: make setup EXTRAS=train"


def shared_data(name: str) -> Path:
    """Folder of a real data set beside the checkout; the test is skipped where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data set {name!r} is not beside the checkout")
    return folder
