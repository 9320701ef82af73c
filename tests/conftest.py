"""Fixtures and helpers of all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# designs and planning problems are millions of objects of which nearly all stay
gc.set_threshold(100_000, 20, 100)

NO_TORCH = "needs PyTorch: make setup EXTRAS=train"


def shared_data(name: str) -> Path:
    """Folder of a real data set beside the checkout; the test is skipped where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data set {name!r} is not beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def one_torch_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skip without PyTorch; one thread with it: waking others costs small batches more."""
    if request.node.get_closest_marker("train") is None:
        yield
        return
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
