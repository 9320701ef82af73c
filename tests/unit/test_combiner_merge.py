"""Packet arbiters: whole packets, each input's order, and a fair share."""

import itertools
import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.combiner.merge import merge_tree
from tests.support.pysim import collector, driver, simulate

LAYOUT = data.StructLayout({"source": 4, "packet": 8, "last": 1})


class Tree(wiring.Component):
    def __init__(self, inputs):
        super().__init__(
            {
                "i": In(stream.Signature(LAYOUT)).array(inputs),
                "o": Out(stream.Signature(LAYOUT)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        inputs = [wiring.flipped(i) for i in self.i]
        merged, busy = merge_tree(m, LAYOUT, inputs)
        wiring.connect(m, merged, wiring.flipped(self.o))
        m.d.comb += self.busy.eq(busy)
        return m


def packets(source, count, size):
    return [
        {"source": source, "packet": packet, "last": piece == length - 1}
        for packet in range(count)
        for length in [size()]
        for piece in range(length)
    ]


@pytest.mark.parametrize("inputs", [2, 3, 5, 8, 9, 16])
@pytest.mark.parametrize(
    ("idle", "back"), [("none", "none"), ("random", "cycle"), ("cycle", "random")]
)
def test_packets_stay_whole_and_in_order(inputs, idle, back):
    rng = random.Random(inputs)
    items = [packets(s, 20, lambda: rng.randint(1, 4)) for s in range(inputs)]
    dut, seen = Tree(inputs), []
    simulate(
        dut,
        *(driver(dut.i[s], items[s], idle, s) for s in range(inputs)),
        background=[
            collector(
                dut.o,
                seen,
                back,
                decode=lambda p: {k: getattr(p, k) for k in ("source", "packet", "last")},
            )
        ],
        until=lambda: len(seen) >= sum(map(len, items)),
    )
    for source in range(inputs):
        assert [item for item in seen if item["source"] == source] == items[source]
    for before, after in itertools.pairwise(seen):
        same = (before["source"], before["packet"]) == (after["source"], after["packet"])
        assert same != bool(before["last"])


@pytest.mark.parametrize("inputs", [2, 4, 16])
def test_busy_inputs_share_every_cycle_equally(inputs):
    items = [packets(s, 40, lambda: 2) for s in range(inputs)]
    dut, seen = Tree(inputs), []
    spent = simulate(
        dut,
        *(driver(dut.i[s], items[s]) for s in range(inputs)),
        background=[collector(dut.o, seen, decode=lambda p: p.source)],
        until=lambda: len(seen) >= 80 * inputs,
    )
    assert spent <= 80 * inputs + 8
    turns = seen[: 40 * inputs]
    assert all(abs(turns.count(s) - 40) <= 4 for s in range(inputs))


@pytest.mark.parametrize("inputs", [2, 3, 5, 9])
def test_tree_is_busy_while_it_holds_a_transfer(inputs):
    dut, seen = Tree(inputs), []
    taken, given, busy = [0], [0], []

    async def watch(ctx):
        pairs = [(i.valid, i.ready) for i in (*dut.i, dut.o)]
        flat = [signal for pair in pairs for signal in pair]
        async for _, _, now, *signals in ctx.tick().sample(dut.busy, *flat):
            busy.append((now, taken[-1] - given[-1]))
            moved = [v and r for v, r in zip(signals[::2], signals[1::2], strict=True)]
            taken.append(taken[-1] + sum(moved[:-1]))
            given.append(given[-1] + moved[-1])

    items = [packets(s, 10, lambda: 2) for s in range(inputs)]
    simulate(
        dut,
        *(driver(dut.i[s], items[s], "random", s) for s in range(inputs)),
        background=[watch, collector(dut.o, seen, "random")],
        until=lambda: len(seen) >= 20 * inputs,
    )
    assert all(now == (held > 0) for now, held in busy)
    assert {now for now, _ in busy} == {0, 1}
