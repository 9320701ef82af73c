"""Memory cores on one AXI4 channel, as a device has them: an arbiter, a guard, the port."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.axi.arbiter import ReadArbiter, arbiter_id_bits
from screc_hw.axi.guard import ReadGuard
from screc_hw.memory.core import COUNTER_BITS, MemoryCore
from screc_hw.memory.layouts import tt_request_layout, tt_row_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.stream import config_layout, partial_layout, section_layout

TIMEOUT_CYCLES = 700
"""Of the guard; more than any latency that the tests use."""

PORT = "m_axi"


class Channel(wiring.Component):
    """``cores`` memory cores on one port; their members are arrays, the port is ``m_axi``."""

    def __init__(self, params: MemoryCoreParams, cores: int) -> None:
        self._params, self._count = params, cores
        port = {"data_bits": params.port_bits, "address_bits": params.address_bits}
        tt = {
            "tt_requests": Out(stream.Signature(tt_request_layout())),
            "tt_rows": In(stream.Signature(tt_row_layout(params))),
        }
        self._members = {
            "sections": In(stream.Signature(section_layout())),
            "config": In(stream.Signature(config_layout(), always_ready=True)),
            "admitted": In(params.sequence_bits),
            "base": In(params.address_bits),
            "partials": Out(stream.Signature(partial_layout(params))),
            **(tt if "tt" in params.tiers else {}),
            **{name: Out(COUNTER_BITS) for name in ("range_errors", "lookups", "beats", "stalls")},
            "axi_error": Out(1),
            "clear": In(1),
            "idle": Out(1),
        }
        self._port = port
        self._id_bits = arbiter_id_bits(cores, 1)
        super().__init__(
            {
                **{name: member.array(cores) for name, member in self._members.items()},
                PORT: Out(ReadSignature(**port, id_bits=self._id_bits)),
                "expired": Out(1),
                "owing": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = ReadArbiter(self._count, **self._port, id_bits=1)
        m.submodules.guard = guard = ReadGuard(
            **self._port,
            id_bits=self._id_bits,
            timeout_cycles=TIMEOUT_CYCLES,
            outstanding=self._count * (self._params.outstanding + self._params.section_beats),
        )
        for index in range(self._count):
            m.submodules[f"core_{index}"] = core = MemoryCore(self._params)
            wiring.connect(m, core.axi, arbiter.i[index])
            for name, member in self._members.items():
                inner: Any = getattr(core, name)
                outer: Any = getattr(self, name)[index]
                if member.is_signature:
                    outer = wiring.flipped(outer)
                    pair = (inner, outer) if member.flow is Out else (outer, inner)
                    wiring.connect(m, *pair)
                elif member.flow is Out:
                    m.d.comb += outer.eq(inner)
                else:
                    m.d.comb += inner.eq(outer)
        wiring.connect(m, arbiter.o, guard.i)
        wiring.connect(m, guard.o, wiring.flipped(getattr(self, PORT)))
        m.d.comb += [self.expired.eq(guard.expired), self.owing.eq(guard.owing)]
        return m
