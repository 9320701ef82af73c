import pytest
from amaranth.sim import Simulator

from screc_hw.device.control import Control
from screc_hw.device.params import max_compute, max_memory
from screc_hw.protocol import Register

START, DONE, IDLE, READY, CONTINUE, AUTO = 1, 2, 4, 8, 16, 128


class Host:
    """Does single AXI4-Lite accesses; ``gap`` cycles between a write's address and its data."""

    def __init__(self, ctx, dut):
        self.ctx = ctx
        self.dut = dut

    async def write(self, address, value, strobe=0xF, gap=0, back=0):
        ctx, bus = self.ctx, self.dut.axil
        ctx.set(bus.awaddr, address)
        ctx.set(bus.wdata, value)
        ctx.set(bus.wstrb, strobe)
        waiting = {"aw": max(0, -gap), "w": max(0, gap)}
        while waiting:
            for channel, left in waiting.items():
                ctx.set(getattr(bus, f"{channel}valid"), left == 0)
            *_, aw, w = await ctx.tick().sample(bus.awready, bus.wready)
            for channel, ready in (("aw", aw), ("w", w)):
                if channel in waiting:
                    if waiting[channel] == 0 and ready:
                        del waiting[channel]
                        ctx.set(getattr(bus, f"{channel}valid"), 0)
                    else:
                        waiting[channel] = max(0, waiting[channel] - 1)
        await self.wait(back)
        ctx.set(bus.bready, 1)
        *_, response = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
        assert response == 0
        ctx.set(bus.bready, 0)

    async def read(self, address, back=0):
        ctx, bus = self.ctx, self.dut.axil
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        await ctx.tick().until(bus.arready)
        ctx.set(bus.arvalid, 0)
        await self.wait(back)
        ctx.set(bus.rready, 1)
        *_, value, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
        assert response == 0
        ctx.set(bus.rready, 0)
        return value

    async def wait(self, cycles):
        for _ in range(cycles):
            await self.ctx.tick()

    async def pulse(self, signal):
        self.ctx.set(signal, 1)
        await self.ctx.tick()
        self.ctx.set(signal, 0)

    async def finish(self):
        await self.pulse(self.dut.finished)


def run(scenario, *, memory=2, compute=1):
    dut = Control(memory=memory, compute=compute)
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    starts = []

    async def bench(ctx):
        await scenario(Host(ctx, dut), dut, ctx, starts)

    async def watch(ctx):
        async for _, reset, start, queue, size in ctx.tick().sample(
            dut.start, dut.queue, dut.queue_bytes
        ):
            assert not reset
            if start:
                starts.append((queue, size))

    sim.add_testbench(watch, background=True)
    sim.add_testbench(bench)
    sim.run()


def test_control_run_goes_from_start_to_continue():
    async def scenario(host, dut, ctx, starts):
        assert await host.read(Register.CTRL) == IDLE
        await host.write(Register.QUEUE, 0x89ABCDE0)
        await host.write(Register.QUEUE + 4, 0x12)
        await host.write(Register.QUEUE_BYTES, 640)
        await host.write(Register.CTRL, START)
        await ctx.tick().repeat(3)
        assert starts == [(0x1289ABCDE0, 640)]
        assert await host.read(Register.CTRL) == READY, "start cleared, ready set"
        assert await host.read(Register.CTRL) == 0, "ready is cleared by its read"
        await host.finish()
        assert await host.read(Register.CTRL) == IDLE | DONE
        assert await host.read(Register.CTRL) == IDLE | DONE, "done waits for ap_continue"
        await host.write(Register.CTRL, CONTINUE)
        assert await host.read(Register.CTRL) == IDLE
        assert len(starts) == 1

    run(scenario)


def test_control_next_start_waits_for_done_and_continue_and_keeps_its_arguments():
    async def scenario(host, dut, ctx, starts):
        await host.write(Register.QUEUE_BYTES, 64)
        await host.write(Register.CTRL, START)
        await host.write(Register.QUEUE_BYTES, 128)
        await host.write(Register.CTRL, START)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.queue_bytes) == 64, "the running queue's arguments hold"
        assert len(starts) == 1
        assert await host.read(Register.CTRL) & START
        await host.finish()
        await ctx.tick().repeat(5)
        assert len(starts) == 1, "ap_done is not acknowledged yet"
        await host.write(Register.CTRL, CONTINUE)
        await ctx.tick().repeat(3)
        assert [size for _, size in starts] == [64, 128]

    run(scenario)


def test_control_auto_restart_repeats_until_it_is_cleared():
    async def scenario(host, dut, ctx, starts):
        await host.write(Register.CTRL, START | AUTO)
        for expected in (1, 2, 3):
            await ctx.tick().repeat(4)
            assert len(starts) == expected
            await host.finish()
        await ctx.tick().repeat(4)
        assert await host.read(Register.CTRL) == START | DONE | READY | AUTO
        await host.write(Register.CTRL, CONTINUE)
        await host.finish()
        await ctx.tick().repeat(4)
        assert len(starts) == 4, "ap_done counts again"
        await host.write(Register.CTRL, CONTINUE)
        await host.finish()
        await host.write(Register.CTRL, CONTINUE)
        await ctx.tick().repeat(4)
        assert len(starts) == 5, "the start that was already pending is the last"
        assert await host.read(Register.CTRL) == IDLE | READY

    run(scenario)


def test_control_finished_without_a_run_does_nothing():
    async def scenario(host, dut, ctx, starts):
        await host.finish()
        assert await host.read(Register.CTRL) == IDLE

    run(scenario)


def test_control_interrupt_follows_enables_and_is_toggled_off():
    async def scenario(host, dut, ctx, starts):
        await host.write(Register.CTRL, START)
        await host.finish()
        await ctx.tick().repeat(3)
        assert await host.read(Register.ISR) == 0, "nothing was enabled"
        await host.write(Register.IER, 0b01)
        await host.write(Register.CTRL, CONTINUE | START)
        await ctx.tick().repeat(3)
        await host.finish()
        await ctx.tick().repeat(3)
        assert await host.read(Register.ISR) == 0b01
        assert not ctx.get(dut.interrupt), "GIER is 0"
        await host.write(Register.GIER, 1)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.interrupt)
        await host.write(Register.ISR, 0b01)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.interrupt)
        assert await host.read(Register.ISR) == 0
        await host.write(Register.ISR, 0b10)
        assert await host.read(Register.ISR) == 0b10, "a write of 1 toggles"
        await host.write(Register.IER, 0b10)
        await host.write(Register.ISR, 0b10)
        await host.write(Register.CTRL, CONTINUE | START)
        await ctx.tick().repeat(3)
        assert await host.read(Register.ISR) == 0b10, "ready sets its own bit"
        assert await host.read(Register.IER) == 0b10
        assert await host.read(Register.GIER) == 1

    run(scenario)


@pytest.mark.parametrize("gap", [-3, 0, 3])
@pytest.mark.parametrize("back", [0, 3])
def test_control_writes_take_strobes_and_any_order_of_channels(gap, back):
    async def scenario(host, dut, ctx, starts):
        last = Register.GMEM + 12
        await host.write(last, 0x11223344, gap=gap, back=back)
        await host.write(last + 4, 0xAABBCCDD, strobe=0b0110, gap=gap, back=back)
        await host.write(last, 0xFFFFFFFF, strobe=0b1000, gap=gap, back=back)
        await host.write(last, 0xFFFFFFFF, strobe=0, gap=gap, back=back)
        assert await host.read(last, back=back) == 0xFF223344
        assert await host.read(last + 4, back=back) == 0x00BBCC00
        assert await host.read(Register.GMEM) == 0
        await host.write(Register.CTRL, START, strobe=0b1110)
        await ctx.tick().repeat(3)
        assert not starts, "the byte of ap_start was not written"
        await host.write(Register.CTRL, START)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.gmem[1]) == 0x00BBCC00FF223344

    run(scenario)


def test_control_counters_are_read_only_and_unknown_addresses_read_zero():
    async def scenario(host, dut, ctx, starts):
        ctx.set(dut.status, 0x40)
        ctx.set(dut.blocks, 7)
        ctx.set(dut.crc, 0xDEADBEEF)
        words = {Register.STATUS: 0x40, Register.BLOCKS: 7, Register.LOAD_CRC: 0xDEADBEEF}
        for i in range(2):
            for part, name in enumerate(("range_errors", "lookups", "beats", "stalls")):
                words[Register.MEMORY_COUNTERS + 32 * i + 4 * part] = value = 1000 * i + part + 1
                ctx.set(dut.memory_counters[i][name], value)
        for part, name in enumerate(("busy", "active", "waiting", "weight_beats")):
            words[Register.COMPUTE_COUNTERS + 4 * part] = value = 5000 + part
            ctx.set(dut.compute_counters[0][name], value)
        for address in words:
            await host.write(address, 0xFFFFFFFF)
        words[Register.CTRL] = IDLE
        for address in range(0, 0x1000, 4):
            if address < 0x40 or address in words or address % 0x7C == 0 or address >= 0xFF0:
                assert await host.read(address) == words.get(address, 0), hex(address)

    run(scenario)


def test_control_counts_the_cycles_of_a_run():
    async def scenario(host, dut, ctx, starts):
        await host.write(Register.CTRL, START)
        await ctx.tick().repeat(100)
        await host.finish()
        await ctx.tick().repeat(20)
        cycles = await host.read(Register.CYCLES)
        assert 99 <= cycles <= 102
        assert await host.read(Register.CYCLES) == cycles
        assert await host.read(Register.CYCLES + 4) == 0

    run(scenario)


@pytest.mark.parametrize(("memory", "compute"), [(0, 1), (33, 1), (1, 0), (1, 129)])
def test_control_refuses_more_cores_than_registers(memory, compute):
    assert (max_memory(), max_compute()) == (32, 128)
    with pytest.raises(ValueError, match="the registers have room for 1 to"):
        Control(memory=memory, compute=compute)
