"""A test bench that never ends."""

import cocotb
from cocotb.triggers import Timer


@cocotb.test()
async def endless(dut):
    while True:
        await Timer(1, unit="us")
