"""The README's path from a PyTorch DLRM to its report, run as it stands there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NO_TORCH

pytest.importorskip("torch", reason=NO_TORCH)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cosim
@pytest.mark.slow
@pytest.mark.timeout(960)
def test_from_a_pytorch_dlrm_to_its_report(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (path,) = (block for block in blocks if "torch.save" in block)
    assert len(path.splitlines()) <= 12
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "build" / "own" / "out"
    assert str(out.relative_to(tmp_path) / "report.html") in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["bit_exact"] is True
    assert (out / "report.html").stat().st_size > 0
    rules = {choice["tensor"]: choice["rule"] for choice in summary["calibration"]}
    assert {"dense", "bottom0", "vectors", "concat", "top0", "emb_0"} <= rules.keys()
