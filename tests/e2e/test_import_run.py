"""From a checkpoint of packed rows to the emitted device: every result word is as it should be."""

import pytest

from tests.e2e.test_cli import invoke
from tests.e2e.test_flow import SMALL, result_digest, run
from tests.e2e.test_import import dlrm, run_import

DRAM = tuple(f'plan.table.{i}={{name="emb_{i}", pin="dram"}}' for i in range(4))
TIERS = (
    'plan.table.0={name="emb_0", tiers=["onchip", "dram"]}',
    'plan.table.1={name="emb_1", pin="onchip"}',
    "plan.cores.memory=2",
)


@pytest.fixture
def case(tmp_path, capsys):
    assert run_import(capsys, tmp_path, dlrm(("int4r", "int8r", "byte", "float")))[0] == 0
    weights = 'file = "in/model.toml"\nweights = "in/weights.safetensors"'
    config = SMALL.replace('file = "model.toml"\nseed = 3', weights)
    assert weights in config
    (tmp_path / "config.toml").write_text(config)
    return tmp_path


@pytest.mark.cosim
@pytest.mark.slow
def test_an_imported_model_is_bit_exact(case, capsys):
    config, out = case / "config.toml", case / "out"
    summary = run(config, out, "simulate.simulator=icarus", "simulate.samples=20")
    assert (summary["bit_exact"], summary["mismatches"]) == (True, 0)
    code, _, err = invoke(capsys, "report", config, "-o", out)
    assert code == 0, err


@pytest.mark.cosim
@pytest.mark.slow
def test_tiers_of_an_imported_model_give_the_same_bits(case):
    digests = set()
    for memory, name, overrides in ((1, "dram", DRAM), (2, "tiers", TIERS)):
        summary = run(case / "config.toml", case / name, *overrides)
        assert (summary["bit_exact"], summary["mismatches"]) == (True, 0)
        assert summary["cores"]["memory"] == memory
        digests.add(result_digest(case / name))
    assert len(digests) == 1
