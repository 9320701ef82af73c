"""Parameters of a device with TT reconstructors."""

import dataclasses
import json

import pytest

from screc_hw.model import FeatureShape, ModelShape, TableShape
from screc_hw.params import DeviceParams, TtLoad
from screc_hw.resources import Resources
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

MODEL = ModelShape(
    name="m",
    dense=0,
    bottom=(),
    top=(1,),
    interaction="concat",
    tables=(TableShape(name="t", rows=8000, dim=32), TableShape(name="u", rows=90, dim=16)),
    features=(
        FeatureShape(name="t", table=0, pooling=10.0),
        FeatureShape(name="u", table=1, pooling=2.0),
    ),
)
SHAPE = TtShape(rows=8000, p=(20, 20, 20), q=(2, 4, 4), ranks=(16, 16))


def reconstructor(**changes):
    return TtParams.for_tables(
        [SHAPE], [5], **{"slice_lanes": DeviceParams.lanes(MODEL), "fraction": 3, **changes}
    )


def test_the_parts_of_a_device_agree_on_the_fraction():
    params = DeviceParams.for_model(MODEL, memory=2, tt=reconstructor())
    assert params.gather.tt_fraction == params.combiner.tt_fraction == 3
    # with 3 bits more, the sum of the longest bag still takes one DSP48E2
    assert params.gather.acc_bits == params.combiner.acc_bits == 27
    assert params.gather.tiers == ("dram", "tt")
    plain = params.with_tt(None)
    assert plain == DeviceParams.for_model(MODEL, memory=2)
    assert plain.with_tt(params.tt) == params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tt": None}, "tt_fraction of gather 3 and combiner 3 must be .* fraction, None"),
        ({"tt": reconstructor(fraction=2)}, "must be the reconstructors' fraction, 2"),
        ({"tt": reconstructor(slice_lanes=8)}, "slice_lanes 8 of .* gather lanes 16 must be equal"),
    ],
)
def test_parts_that_disagree_are_refused(change, message):
    params = DeviceParams.for_model(MODEL, tt=reconstructor())
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(params, **change)


@pytest.mark.parametrize("tt", [None, reconstructor()])
def test_parameters_are_read_back(tt):
    params = DeviceParams.for_model(MODEL, tt=tt)
    assert DeviceParams.from_dict(json.loads(json.dumps(params.as_dict()))) == params


def test_every_memory_core_has_a_reconstructor():
    parts = [DeviceParams.for_model(MODEL, memory=n, tt=reconstructor()) for n in (1, 2, 4)]
    for params in parts:
        gather, host = params.gather.resources(), params.host.resources
        rest = params.combiner.resources(inputs=params.memory, cores=1) + params.core.resources()
        rest += host(memory=params.memory, compute=1)
        cores: Resources = params.memory * (gather + params.tt.resources())
        assert params.resources() == cores + rest


@pytest.mark.parametrize("memory", [1, 2])
def test_rebuilt_rows_take_reconstructors_and_spare_the_port(memory):
    params = DeviceParams.for_model(MODEL, memory=memory, rows=8, tt=reconstructor())
    # a slow memory: reads in flight set the pace of the gather
    plain = params.predict(MODEL, 64, latency=2000).parts
    assert plain["tt"] == 0
    loads = [TtLoad(shape=SHAPE, rows=9.0, hit_rate=0.25)]
    with_tt = params.predict(MODEL, 64, latency=2000, tt=loads).parts
    steps = SHAPE.macs * 0.75 + SHAPE.row_macs * 0.25
    assert with_tt["tt"] == pytest.approx(64 * 9 / memory * steps / params.tt.multipliers, rel=0.3)
    assert with_tt["gather"] < plain["gather"]
    assert {n: v for n, v in with_tt.items() if n not in ("tt", "gather")} == {
        n: v for n, v in plain.items() if n not in ("tt", "gather")
    }
    assert "tt" not in DeviceParams.for_model(MODEL).predict(MODEL, 64).parts
