import dataclasses
import types

from amaranth.sim import Simulator

from screc_hw.device.top import Device
from screc_hw.protocol import Register, StatusBit
from tests.unit.test_control_registers import CONTINUE, DONE, IDLE, START, Host
from tests.unit.test_top_device import small

TIMEOUT = 200
STUCK = StatusBit.TIMEOUT | StatusBit.RESET_NEEDED


def run(scenario):
    _, params = small(memory=1, compute=1)
    host = dataclasses.replace(
        params.host, timeout_cycles=TIMEOUT, read_timeout_cycles=TIMEOUT // 2
    )
    device = Device(dataclasses.replace(params, host=host))
    sim = Simulator(device)
    sim.add_clock(1e-6)

    async def bench(ctx):
        await scenario(Host(ctx, types.SimpleNamespace(axil=device.control)), device, ctx)

    sim.add_testbench(bench)
    sim.run()


async def finished(host, ctx, limit):
    for _ in range(limit):
        if await host.read(Register.CTRL) & DONE:
            return
        await ctx.tick()
    raise AssertionError("the run did not end")


def test_device_ends_a_run_of_an_empty_queue_at_once():
    async def scenario(host, device, ctx):
        await host.write(Register.CTRL, START)
        await finished(host, ctx, 5)
        assert await host.read(Register.STATUS) == 0
        await host.write(Register.CTRL, CONTINUE)
        assert await host.read(Register.CTRL) & (IDLE | DONE) == IDLE

    run(scenario)


def test_device_ends_a_run_whose_memory_never_answers_with_a_sticky_timeout():
    async def scenario(host, device, ctx):
        await host.write(Register.QUEUE_BYTES, 64)
        await host.write(Register.CTRL, START)
        await finished(host, ctx, TIMEOUT)
        assert await host.read(Register.STATUS) == STUCK
        assert TIMEOUT < await host.read(Register.CYCLES) < TIMEOUT + 20
        await host.write(Register.CTRL, CONTINUE)
        await host.write(Register.CTRL, START)
        await finished(host, ctx, 5)
        assert await host.read(Register.STATUS) == STUCK, "until reset"

    run(scenario)


def test_device_ends_a_queue_with_a_read_error_by_its_status():
    async def scenario(host, device, ctx):
        axi = device.host_read
        await host.write(Register.QUEUE_BYTES, 64)
        await host.write(Register.CTRL, START)
        ctx.set(axi.arready, 1)
        await ctx.tick().until(axi.arvalid)
        ctx.set(axi.arready, 0)
        ctx.set(axi.rvalid, 1)
        ctx.set(axi.rresp, 2)
        ctx.set(axi.rlast, 1)
        await ctx.tick().until(axi.rready)
        ctx.set(axi.rvalid, 0)
        await finished(host, ctx, 50)
        assert await host.read(Register.STATUS) & StatusBit.AXI_READ
        assert not await host.read(Register.STATUS) & StatusBit.TIMEOUT
        assert await host.read(Register.BLOCKS) == 1

    run(scenario)
