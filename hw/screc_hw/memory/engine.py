"""Gather engine: from a stream of lookups to exact partial sums of bags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.memory.bags import BagCheck
from screc_hw.memory.core import COUNTER_BITS, AdmissionGate
from screc_hw.memory.fetch import ReadMaster
from screc_hw.memory.layouts import checked_layout, record_layout, request_layout
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.pool import Pool
from screc_hw.memory.remap import Remap
from screc_hw.memory.slice import Slicer
from screc_hw.stream import SkidBuffer, config_layout, partial_layout


class GatherEngine(wiring.Component):
    """Gathers the rows of a stream of lookups and pools them; see docs/memory.md.

    Parameters
    ----------
    params
        Compile-time maxima.

    Members
    -------
    lookups : In(stream.Signature(record_layout()))
    config : In(stream.Signature(config_layout(), always_ready=True))
    admitted : In(16)
    base : In(address_bits)
    axi : Out(ReadSignature)
        Rows in DRAM; ``rready`` is always 1.
    partials : Out(stream.Signature(partial_layout(params)))
    range_errors, beats, stalls : Out(32)
    error : Out(1)
        Pulse per beat with an error response.
    idle : Out(1)
    """

    lookups: stream.Interface
    config: stream.Interface
    admitted: Signal
    base: Signal
    axi: Any
    partials: stream.Interface
    range_errors: Signal
    beats: Signal
    stalls: Signal
    error: Signal
    idle: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "lookups": In(stream.Signature(record_layout())),
                "config": In(stream.Signature(config_layout(), always_ready=True)),
                "admitted": In(params.sequence_bits),
                "base": In(params.address_bits),
                "axi": Out(
                    ReadSignature(data_bits=params.port_bits, address_bits=params.address_bits)
                ),
                "partials": Out(stream.Signature(partial_layout(params))),
                "range_errors": Out(COUNTER_BITS),
                "beats": Out(COUNTER_BITS),
                "stalls": Out(COUNTER_BITS),
                "error": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts."""
        m = Module()
        p = self._params
        m.submodules.master = master = ReadMaster(p)
        m.submodules.record_skid = record_skid = SkidBuffer(record_layout())
        m.submodules.check = check = BagCheck(p)
        m.submodules.checked_skid = checked_skid = SkidBuffer(checked_layout(p))
        m.submodules.gate = gate = AdmissionGate(p)
        m.submodules.remap = remap = Remap(p)
        m.submodules.request_skid = request_skid = SkidBuffer(request_layout(p))
        m.submodules.slicer = slicer = Slicer(p)
        m.submodules.pool = pool = Pool(p)
        m.submodules.partial_skid = partial_skid = SkidBuffer(partial_layout(p))
        wiring.connect(m, wiring.flipped(self.lookups), record_skid.i)
        wiring.connect(m, record_skid.o, check.i)
        wiring.connect(m, check.o, checked_skid.i)
        wiring.connect(m, checked_skid.o, gate.i)
        wiring.connect(m, gate.o, remap.i)
        wiring.connect(m, wiring.flipped(self.config), remap.config)
        wiring.connect(m, remap.o, request_skid.i)
        wiring.connect(m, request_skid.o, master.requests)
        wiring.connect(m, master.axi, wiring.flipped(self.axi))
        wiring.connect(m, master.lookups, slicer.lookups)
        wiring.connect(m, master.rows, slicer.beats)
        wiring.connect(m, slicer.o, pool.i)
        wiring.connect(m, pool.o, partial_skid.i)
        wiring.connect(m, partial_skid.o, wiring.flipped(self.partials))
        m.d.comb += [remap.base.eq(self.base), gate.admitted.eq(self.admitted)]
        held_up = gate.waiting | (self.partials.valid & ~self.partials.ready)
        m.d.sync += [
            self.range_errors.eq(self.range_errors + check.dropped + remap.out_of_range),
            self.beats.eq(self.beats + master.beat),
            self.stalls.eq(self.stalls + held_up),
            self.error.eq(master.error),
        ]
        busy = [
            record_skid.o.valid,
            check.busy,
            checked_skid.o.valid,
            remap.busy,
            master.busy,
            slicer.busy,
            pool.busy,
            partial_skid.o.valid,
        ]
        m.d.comb += self.idle.eq(~Cat(*busy).any())
        return m
