"""Lookup records to lookups of bags that exist, each partial with an end."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import checked_layout, record_layout
from screc_hw.memory.params import MemoryCoreParams


class BagCheck(wiring.Component):
    """Drops records of bags that do not exist and ends every partial.

    A partial is a run of records of one (sample, feature) within a section. It ends at a record
    marked ``last``, before a record of another bag, and with the section: so what arrives is always
    delivered, even where the record that should have ended it was wrong. A record not marked
    ``last`` waits for its successor.

    **Latency** 2 cycles, one more for a record not marked ``last``. **Throughput** 1 record per
    cycle. **Backpressure** ``o.ready`` reaches ``i.ready`` through two gates.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(record_layout()))
    o : Out(stream.Signature(checked_layout(params)))
    dropped : Out(1)
        Pulse per dropped record.
    busy : Out(1)
    """

    i: stream.Interface
    o: stream.Interface
    dropped: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(record_layout())),
                "o": Out(stream.Signature(checked_layout(params))),
                "dropped": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the check register and the register that waits for a successor."""
        m = Module()
        p = self._params
        held_layout = data.StructLayout(
            {"lookup": record_layout()["lookup"].shape, "sequence": p.sequence_bits}
        )
        rows_log2, slots_log2 = p.rows.bit_length() - 1, p.slots.bit_length() - 1

        # the record as checked
        new: Any = Signal(held_layout)
        new_valid, new_wrong, new_final = Signal(), Signal(), Signal()
        # the record before it, waiting to know whether it is its partial's last
        old: Any = Signal(held_layout)
        old_valid = Signal()

        same = Signal()
        ends = Signal()
        shift = Signal()  # new moves on: into old, or away
        m.d.comb += [
            same.eq(
                (new.lookup.sample == old.lookup.sample)
                & (new.lookup.feature == old.lookup.feature)
            ),
            ends.eq(old.lookup.last | (new_valid & ~same)),
            self.o.valid.eq(old_valid & (old.lookup.last | (new_valid & (~new_wrong | new_final)))),
            self.o.payload.rank.eq(old.lookup.rank),
            self.o.payload.staged.eq(old.lookup.staged),
            self.o.payload.last.eq(ends),
            self.o.payload.sequence.eq(old.sequence),
            self.o.payload.bag.slot.eq(old.sequence[:slots_log2]),
            self.o.payload.bag.row.eq(old.lookup.sample[:rows_log2]),
            self.o.payload.bag.feature.eq(old.lookup.feature),
            shift.eq(new_valid & (~old_valid | new_wrong & ~new_final | self.o.ready)),
            self.i.ready.eq(~new_valid | shift),
            self.dropped.eq(shift & new_wrong),
            self.busy.eq(new_valid | old_valid),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += old_valid.eq(0)
        with m.If(shift & ~new_wrong):
            m.d.sync += old_valid.eq(1)
            m.d.sync += old.eq(new)
            # nothing follows in this section
            with m.If(new_final):
                m.d.sync += old.lookup.last.eq(1)
        with m.If(self.i.ready):
            record = self.i.payload
            m.d.sync += [
                new_valid.eq(self.i.valid),
                new.lookup.eq(record.lookup),
                new.sequence.eq(record.sequence + (record.lookup.sample >> rows_log2)),
                new_final.eq(record.final),
                new_wrong.eq(
                    (record.lookup.feature >= p.max_features)
                    | (record.lookup.sample >= record.samples)
                ),
            ]
        return m
