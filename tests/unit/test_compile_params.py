"""What a model's row formats ask of the cores."""

import pytest

from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams


def model(*tables):
    return ModelShape(
        name="m",
        dense=0,
        bottom=(),
        top=(4, 1),
        interaction="concat",
        tables=tuple(
            TableShape(name=f"t{i}", rows=10, dim=dim, format=format_)
            for i, (dim, format_) in enumerate(tables)
        ),
        features=tuple(FeatureShape(name=f"t{i}", table=i) for i in range(len(tables))),
    )


@pytest.mark.parametrize(
    ("tables", "port_bits", "lanes"),
    [
        ([(128, "int4r")], 512, 128),
        ([(128, "int4"), (256, "int4r")], 512, 128),
        ([(128, "int4r")], 256, 32),
        ([(128, "int4"), (128, "int8")], 512, 64),
        ([(128, "int4"), (192, "int4")], 512, 64),
        ([(64, "int4r")], 512, 64),
        ([(96, "int4"), (32, "int4")], 512, 32),
        ([(128, "int8r")], 512, 64),
    ],
)
def test_lanes_are_what_the_dimensions_share(tables, port_bits, lanes):
    params = DeviceParams.for_model(model(*tables), port_bits=port_bits)
    assert params.gather.lanes == params.combiner.lanes == params.core.lanes == lanes
    assert params.gather.max_slices == max(dim for dim, _ in tables) // lanes


@pytest.mark.parametrize(
    ("tables", "rowwise"),
    [
        ([(16, "int8"), (16, "int4")], False),
        ([(16, "int8"), (16, "int8r")], True),
        ([(16, "int4r")], True),
    ],
)
def test_one_row_wise_table_widens_every_sum(tables, rowwise):
    params = DeviceParams.for_model(model(*tables))
    assert params.gather.rowwise == params.combiner.rowwise == rowwise
    assert params.gather.acc_bits == params.combiner.acc_bits == (48 if rowwise else 24)
    assert DeviceParams.from_dict(params.as_dict()) == params


def test_on_chip_rows_and_pools_reach_the_memory_cores():
    params = DeviceParams.for_model(model((16, "int8")), onchip_beats=100, pool_beats=2)
    assert (params.gather.onchip_beats, params.gather.pool_beats) == (100, 2)
