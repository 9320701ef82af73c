"""Sums of 48 bits: their ends, their means, and narrow sums beside them."""

import dataclasses
import random

import pytest

from screc_hw.combiner.params import CombinerParams
from tests.support.combiner import SMALL, Bench, Feature, Part, SubBatch, expected_words
from tests.support.pysim import PATTERNS

WIDE = dataclasses.replace(SMALL, rowwise=True)
TOP = (1 << 47) - 1
BOTTOM = -(1 << 47)


def split(total, parts, rng):
    """Cut ``total`` into parts of at most 48 bits; sums on the way may leave them."""
    while True:
        values = [rng.randint(BOTTOM, TOP) >> rng.randrange(48) for _ in range(parts - 1)]
        if BOTTOM <= (rest := total - sum(values)) <= TOP:
            return [*values, rest]


def bag(params, row, feature, length, totals, rng, *, inputs=1, most=4):
    """Partials of one bag; ``totals`` by slice and lane."""
    cuts = sorted(rng.sample(range(1, length), min(rng.randrange(most), length - 1)))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
    lanes = [[split(total, len(counts), rng) for total in piece] for piece in totals]
    return [
        Part(
            rng.randrange(inputs),
            row,
            feature,
            count,
            [[values[n] for values in piece] for piece in lanes],
        )
        for n, count in enumerate(counts)
    ]


def run(params, features, lengths, totals, rng, *, inputs=1, batches=1, **kwargs):
    """Run sub-batches; ``totals(row, feature)`` gives the sums of a bag by slice and lane."""
    made = []
    for _ in range(batches):
        batch = SubBatch(len(features), lengths, [])
        for row, bags in enumerate(lengths):
            for f, length in enumerate(bags):
                if length:
                    batch.parts += bag(params, row, f, length, totals(row, f), rng, inputs=inputs)
        rng.shuffle(batch.parts)
        made.append(batch)
    Bench(params, inputs, 1, features, made, **kwargs).run()
    return made


@pytest.mark.parametrize("s", [1, 15, 31, 38, 39, 40, 46, 47])
@pytest.mark.parametrize("mean", [False, True])
def test_sums_at_both_ends(s, mean):
    rng = random.Random(s)
    params = dataclasses.replace(WIDE, rows=2, slots=1, mean=mean)
    edges = [TOP, BOTTOM, TOP - 1, BOTTOM + 1, 0, -1, 1, (1 << 38) - 1, 1 << 38, -(1 << 38)]
    edges += [1 << 26, (1 << 26) - 1, -(1 << 26), -(1 << 26) - 1]
    features = [Feature(m, s, mean, 3, 3 * f) for f, m in enumerate((1 << 15, 46341, 65535))]
    values = iter(edges * 10)
    totals = [[[next(values) for _ in range(4)] for _ in range(3)] for _ in range(6)]
    made = run(
        params,
        features,
        [[1, 2, 3], [7, 65535, 65534]],
        lambda row, f: totals[3 * row + f],
        rng,
    )
    words = expected_words(params, features, made[0])
    assert {v for lanes in words.values() for v in lanes} & {-127, 127} == {-127, 127}


@pytest.mark.parametrize("length", [1, 2, 3, 255, 256, 257, 32767, 32768, 32769, 65535])
def test_means_of_bags_of_any_length(length):
    rng = random.Random(length)
    params = dataclasses.replace(WIDE, rows=1, slots=1)
    features = [
        Feature(rng.randrange(1 << 15, 1 << 16), s, True, 2, 2 * f)
        for f, s in enumerate((20, 33, 47))
    ]
    # means that the shift leaves within int8, and a few beyond
    made = run(
        params,
        features,
        [[length] * 3],
        lambda _, f: [
            [
                max(BOTTOM, min(TOP, length * rng.randint(-160, 160) << (features[f].s - 15)))
                for _ in range(4)
            ]
            for _ in range(2)
        ],
        rng,
        batches=3,
    )
    words = [expected_words(params, features, batch) for batch in made]
    assert len({v for batch in words for lanes in batch.values() for v in lanes}) > 10


def test_narrow_sums_come_sign_extended():
    """One combiner serves features of both kinds: (m, s) is all that differs."""
    rng = random.Random(4)
    features = [
        Feature(40000, 16, False, 1, 0),
        Feature(40000, 40, False, 1, 1),
        Feature(50000, 17, True, 1, 2),
    ]
    for batch in run(
        WIDE,
        features,
        [[5, 5, 5], [1, 2, 3]],
        lambda _, f: [[rng.randint(-300, 300) << (24 if f == 1 else 0) for _ in range(4)]],
        rng,
        inputs=2,
        batches=4,
    ):
        words = expected_words(WIDE, features, batch)
        assert all(len(set(map(abs, words[0, f]))) > 1 for f in range(3))


@pytest.mark.parametrize("idle", PATTERNS)
@pytest.mark.parametrize("back", PATTERNS)
def test_random_sums(idle, back):
    seed = PATTERNS.index(idle) * 3 + PATTERNS.index(back)
    print(f"seed {seed}")
    rng = random.Random(seed)
    features, base = [], 0
    for _ in range(WIDE.max_features):
        slices = rng.randint(1, WIDE.max_slices)
        m, s = rng.randrange(1 << 15, 1 << 16), rng.randint(1, 47)
        features.append(Feature(m, s, rng.random() < 0.5, slices, base))
        base += slices
    lengths = [[rng.choice((0, 1, 2, 9, 65535)) for _ in features] for _ in range(WIDE.rows)]
    run(
        WIDE,
        features,
        lengths,
        lambda _, f: [
            [rng.randint(BOTTOM, TOP) >> rng.randrange(48) for _ in range(WIDE.lanes)]
            for _ in range(features[f].slices)
        ],
        rng,
        inputs=3,
        batches=6,
        idle=idle,
        back=back,
        hold=(0, 30),
        seed=seed,
    )


@pytest.mark.parametrize(("pool_bits", "tt_fraction"), [(54, None), (48, 30)])
def test_sums_wider_than_two_multipliers_are_refused(pool_bits, tt_fraction):
    with pytest.raises(ValueError, match=r"^sums of 54 bits \(pool_bits \d+, tt_fraction .*53$"):
        dataclasses.replace(WIDE, pool_bits=pool_bits, tt_fraction=tt_fraction)


@pytest.mark.parametrize(
    ("changes", "bits"),
    [({}, 48), ({"pool_bits": 40}, 40), ({"rowwise": False}, 24), ({"tt_fraction": 29}, 53)],
)
def test_width_of_the_sums(changes, bits):
    params: CombinerParams = dataclasses.replace(WIDE, **changes)
    assert params.acc_bits == bits
