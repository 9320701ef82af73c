"""Predicted cycles of the combiner and those it takes."""

import dataclasses

import pytest

from screc_hw.combiner.params import CombinerParams
from tests.support.combiner import Bench, Feature, Part, SubBatch, model


def measured(params, features, slices, split, *, inputs=1, cores=1):
    """Cycles per sub-batch once every slot is in use; bags come as ``split`` partials."""
    descriptors = [Feature(1 << 15, 15, False, slices, f * slices) for f in range(features)]
    count = 4 * params.slots if features < 5 else params.slots + 2
    bags = [(row, f) for row in range(params.rows) for f in range(features)]
    parts = [(row, f) for row, f in bags for _ in range(split)]
    batch = SubBatch(
        features,
        [[split] * features for _ in range(params.rows)],
        [
            Part(turn % inputs, row, f, 1, [[1] * params.lanes] * slices)
            for turn, (row, f) in enumerate(parts)
        ],
    )
    ends = Bench(params, inputs, cores, descriptors, [batch] * count).run().completions
    # whole turns of the slots, once all of them have been used
    turns = params.slots * (2 if features < 5 else 1)
    return (ends[-1] - ends[-1 - turns]) / turns


def check(params, features, slices, split, **kwargs):
    predicted = params.cycles(
        model((slices * params.lanes,) * features, params.lanes), partials_per_bag=split
    )
    cycles = measured(params, features, slices, split, **kwargs)
    print(f"{features} features, {slices} slices, {split} partials: {cycles} cycles, {predicted}")
    assert predicted == pytest.approx(cycles, rel=0.03)


def combiner(features, slices, **changes):
    params = CombinerParams(
        lanes=1,
        rows=8,
        slots=4,
        max_features=features,
        max_slices=slices,
        vector_words=features * slices,
    )
    return dataclasses.replace(params, **changes)


@pytest.mark.parametrize("split", [1, 2, 3, 4])
@pytest.mark.parametrize("slices", [1, 2])
def test_one_feature(slices, split):
    check(combiner(1, slices), 1, slices, split)


@pytest.mark.parametrize(
    ("features", "rows", "slices", "split", "inputs"),
    [(26, 1, 1, 1, 1), (26, 1, 2, 1, 1), (26, 1, 1, 2, 2), (26, 1, 2, 4, 4), (100, 1, 1, 1, 1)],
)
def test_many_features(features, rows, slices, split, inputs):
    check(combiner(features, slices, rows=rows, slots=2), features, slices, split, inputs=inputs)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("rows", "slots", "cores"), [(1, 1, 1), (1, 4, 4), (8, 2, 1)])
def test_slots_too_few_for_the_pipeline(rows, slots, cores, mean, wide):
    params = combiner(1, 1, rows=rows, slots=slots, mean=mean, rowwise=wide)
    check(params, 1, 1, 1, cores=cores)


@pytest.mark.slow
@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("split", [1, 2, 4])
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(("features", "rows"), [(1, 8), (26, 8), (100, 2)])
def test_every_shape(features, rows, slices, split, rowwise):
    params = combiner(features, slices, rows=rows, rowwise=rowwise)
    check(params, features, slices, split, inputs=split)
