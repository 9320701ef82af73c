import dataclasses
import gzip

import h5py
import numpy as np
import pytest

from screc.weights import load_weights
from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_sim.golden import float_twin
from screc_sim.golden import model as golden
from screc_sim.golden.calibrate import calibrate
from screc_sim.golden.float_twin import FloatLinear, Weights
from screc_sim.golden.metrics import auc, fidelity
from screc_sim.samples import Bags, SampleBatch
from tests.conftest import shared_data
from tests.golden.support import ArrayTable

pytestmark = pytest.mark.data

# rows of the 26 tables of the Criteo Kaggle display advertising set
KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


def dlrm(rows, bottom, interaction="dot"):
    return ModelShape(
        name="dlrm",
        dense=13,
        bottom=bottom,
        top=(512, 256, 1),
        interaction=interaction,
        tables=tuple(TableShape(name=f"C{i}", rows=r, dim=16) for i, r in enumerate(rows)),
        features=tuple(FeatureShape(name=f"C{i}", table=i) for i in range(len(rows))),
    )


@pytest.mark.parametrize("lookups", ["single", "multi"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_twin_equals_pytorch_at_every_stage(lookups, dtype):
    path = shared_data("dlrm_ref_vectors") / f"pytorch_reference_{lookups}.hdf5"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the checkout")
    with h5py.File(path) as file:
        reference = {name: np.asarray(values) for name, values in file.items()}

    def layers(prefix, count):
        names = [f"{prefix}.{i}" for i in range(count)]
        return tuple(FloatLinear(reference[f"{n}.weight"], reference[f"{n}.bias"]) for n in names)

    shape = dlrm((1000,) * 7, (512, 256, 64, 16))
    tables = tuple(ArrayTable(reference[f"emb_{i}"]) for i in range(7))
    bags = []
    for i in range(7):
        ids = reference[f"input_emb_{i}"].reshape(128, -1)
        bags.append(Bags(ids.ravel(), np.arange(129) * ids.shape[1]))
    batch = SampleBatch(reference["input_bot"], tuple(bags))
    weights = Weights(layers("bot_l", 4), layers("top_l", 3), tables)
    stages = float_twin.stages(shape, weights, batch, dtype)

    vectors = np.stack([stages["bottom3"], *(stages[f"bag{f}"] for f in range(7))], axis=1)
    for ours, theirs in {
        "bottom3": "mlp_bottom",
        "concat": "output_interaction",
        "probability": "mlp_top",
    }.items():
        expected = reference[theirs].reshape(stages[ours].shape)
        assert stages[ours] == pytest.approx(expected, abs=1e-5), theirs
    assert vectors == pytest.approx(reference["concatenated_result"], abs=1e-5)
    assert stages["concat"][:, 16:] == pytest.approx(reference["zflat"], abs=1e-5)
    labels, p = reference["labels"][:, 0], stages["probability"]
    loss = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert loss == pytest.approx(float(reference["loss"]), abs=1e-5)


@pytest.fixture(scope="module")
def criteo():
    """8,000 rows: log(1 + max(x, 0)) of 13 integers, hexadecimal ids modulo rows, labels."""
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    with gzip.open(path, "rt") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    dense = np.array([[max(float(v or 0), 0.0) for v in row[1:14]] for row in rows])
    ids = np.array(
        [
            [int(v or "0", 16) % n for v, n in zip(row[14:], KAGGLE_ROWS, strict=True)]
            for row in rows
        ]
    )
    offsets = np.arange(len(rows) + 1)
    return SampleBatch(
        np.log1p(dense).astype(np.float32),
        tuple(Bags(ids[:, i].copy(), offsets) for i in range(26)),
        np.array([float(row[0]) for row in rows], np.float32),
    )


@pytest.mark.parametrize("interaction", ["dot", "concat"])
@pytest.mark.parametrize("seed", [0, 1])
def test_int8_follows_float_on_criteo(criteo, interaction, seed):
    shape = dlrm(KAGGLE_ROWS, (512, 256, 64, 16), interaction)
    weights = load_weights(None, shape, seed)
    model = calibrate(shape, weights, criteo.slice(0, 4000))
    result, logits = golden.run(model, criteo), float_twin.run(shape, weights, criteo)
    held_out = slice(4000, 8000)
    arrays = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    later = type(result)(**{name: array[held_out] for name, array in arrays.items()})
    for figures in (fidelity(model, result, logits), fidelity(model, later, logits[held_out])):
        print(f"{interaction} seed {seed}: {figures}, {figures.relative_error:.4f}")
        assert 0.5 <= figures.logit_std <= 2.5
        assert figures.probability_error < 0.008
        assert figures.relative_error <= 0.04
    assert auc(criteo.labels, result.code) == pytest.approx(auc(criteo.labels, logits), abs=0.003)


def test_int4_tables_on_criteo_rank_alike(criteo):
    shape = dlrm(KAGGLE_ROWS, (512, 256, 64, 16))
    tables = tuple(dataclasses.replace(table, format="int4") for table in shape.tables)
    shape = dataclasses.replace(shape, tables=tables)
    weights = load_weights(None, shape, 0)
    model = calibrate(shape, weights, criteo.slice(0, 4000))
    figures = fidelity(model, golden.run(model, criteo), float_twin.run(shape, weights, criteo))
    assert figures.relative_error < 0.16
    assert figures.probability_error < 0.03
