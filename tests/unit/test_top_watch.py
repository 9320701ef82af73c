import pytest
from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator

from screc_hw.device.watch import ConfigFanout, Watchdog, registered_sum
from screc_hw.protocol import ALL_CORES, LoadTarget


def simulate(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_watchdog_expires_after_the_timeout_and_stays_so():
    dut = Watchdog(10)

    async def bench(ctx):
        await ctx.tick().repeat(50)
        assert not ctx.get(dut.expired), "nothing runs"
        ctx.set(dut.running, 1)
        for _ in range(5):
            await ctx.tick().repeat(9)
            ctx.set(dut.progress, 1)
            await ctx.tick()
            ctx.set(dut.progress, 0)
        assert not ctx.get(dut.expired)
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.expired)
        await ctx.tick()
        assert ctx.get(dut.expired)
        ctx.set(dut.running, 0)
        ctx.set(dut.progress, 1)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.expired), "until reset"

    simulate(dut, bench)


def test_watchdog_refuses_no_timeout():
    with pytest.raises(ValueError, match=r"^timeout must be at least 1 cycle, not 0$"):
        Watchdog(0)


def test_config_words_reach_only_the_cores_they_are_for():
    memory = frozenset({LoadTarget.GATHER_FEATURES, LoadTarget.GATHER_STAGING})
    compute = frozenset({LoadTarget.WEIGHTS})
    sinks = [(memory, 0), (memory, 1), (compute, 0), (compute, 1)]
    dut = ConfigFanout(sinks)
    words = [
        (LoadTarget.GATHER_FEATURES, 0, [0]),
        (LoadTarget.GATHER_STAGING, 1, [1]),
        (LoadTarget.GATHER_FEATURES, ALL_CORES, [0, 1]),
        (LoadTarget.WEIGHTS, 1, [3]),
        (LoadTarget.WEIGHTS, ALL_CORES, [2, 3]),
        (LoadTarget.SIGMOID, ALL_CORES, []),
        (LoadTarget.WEIGHTS, 7, []),
    ]
    seen = [[] for _ in sinks]

    async def bench(ctx):
        for i in range(len(words) + 3):
            ctx.set(dut.i.valid, int(i < len(words)))
            if i < len(words):
                target, core, _ = words[i]
                ctx.set(dut.i.payload, {"target": target, "address": i, "data": 1 << 60 | i})
                ctx.set(dut.core, core)
            await ctx.tick()
            for out, items in zip(dut.o, seen, strict=True):
                if ctx.get(out.valid):
                    assert ctx.get(out.payload.data) == 1 << 60 | ctx.get(out.payload.address)
                    items.append(ctx.get(out.payload.address))

    simulate(dut, bench)
    for sink, items in enumerate(seen):
        assert items == [i for i, (*_, outs) in enumerate(words) if sink in outs]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_registered_sum_adds_everything_and_wraps(count):
    class Sum(wiring.Component):
        def __init__(self):
            super().__init__({"o": Out(8)})

        def elaborate(self, platform):
            m = Module()
            m.d.sync += Signal().eq(1)  # one value needs no register, and so no clock
            total = registered_sum(m, [Const(100 + i, 8) for i in range(count)], 8)
            m.d.comb += self.o.eq(total)
            return m

    dut = Sum()

    async def bench(ctx):
        await ctx.tick().repeat(4)
        assert ctx.get(dut.o) == sum(100 + i for i in range(count)) % 256

    simulate(dut, bench)
