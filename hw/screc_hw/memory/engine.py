"""Gather engine: from a stream of lookups to exact partial sums of bags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature
from screc_hw.combiner.merge import merge_tree
from screc_hw.memory.bags import BagCheck
from screc_hw.memory.bound import Bound
from screc_hw.memory.dequantise import Dequantise
from screc_hw.memory.fetch import RowFetch
from screc_hw.memory.lanes import Lanes, lane_request_layout
from screc_hw.memory.layouts import (
    checked_layout,
    piece_layout,
    place_layout,
    record_layout,
    routed_layout,
    row_layout,
    tt_request_layout,
    tt_row_layout,
)
from screc_hw.memory.onchip import OnchipRows
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.memory.pool import PieceMerge, Pool
from screc_hw.memory.remap import Remap
from screc_hw.memory.slice import Slicer
from screc_hw.memory.tt import TtPieces
from screc_hw.stream import DeepQueue, SkidBuffer, config_layout, partial_layout

__all__ = ["COUNTER_BITS", "AdmissionGate", "GatherEngine"]

COUNTER_BITS = 32


class AdmissionGate(wiring.Component):
    """Holds a lookup back until the combiner has a place for its sub-batch.

    **Latency** 1 cycle. **Throughput** 1 lookup per cycle while sub-batches are admitted.
    **Backpressure** ``o.ready`` reaches ``i.ready`` through two gates.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i, o : stream.Signature(checked_layout(params))
    admitted : In(sequence_bits)
        Running count of admitted sub-batches.
    waiting : Out(1)
        A lookup waits for its sub-batch.
    busy : Out(1)
    """

    i: stream.Interface
    o: stream.Interface
    admitted: Signal
    waiting: Signal
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(stream.Signature(checked_layout(params))),
                "o": Out(stream.Signature(checked_layout(params))),
                "admitted": In(params.sequence_bits),
                "waiting": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Hold a lookup in a register until its sub-batch is admitted."""
        m = Module()
        held = Signal.like(self.i.payload, reset_less=True)
        held_valid, known = Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(held_valid & known),
            self.o.payload.eq(held),
            self.i.ready.eq(~held_valid | (known & self.o.ready)),
            self.waiting.eq(held_valid & ~known),
            self.busy.eq(held_valid),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                held.eq(self.i.payload),
                held_valid.eq(self.i.valid),
                known.eq(self._admitted(self.i.payload.sequence)),
            ]
        with m.Elif(~known):
            m.d.sync += known.eq(self._admitted(held.sequence))
        return m

    def _admitted(self, sequence: Value) -> Value:
        """Whether ``admitted - sequence``, as a signed number, is positive."""
        return (sequence - self.admitted)[self._params.sequence_bits - 1]


class GatherEngine(wiring.Component):
    """Gathers the rows of a stream of lookups from its tiers and pools them.

    The parts are in docs/memory.md. Partials leave in the order of each lane. A wrong record is
    counted and never becomes a read: with a feature >= ``max_features`` or a sample >= its
    section's it is dropped; with a rank in no range, a staged row not wholly in the ring, a
    disabled feature or an address beyond the limit it counts in its bag and adds 0. A bag of
    nothing else has slices all the same, as many as its descriptor says (one, where that is out of
    range), so disabled features are loaded too. LOAD only while ``idle``.

    **Latency** ``params.fill`` cycles from a lookup to its partial. **Throughput** one lookup, one
    beat of memory and ``pool_beats`` slices per cycle, whichever takes longest; see
    ``params.cycles``. **Backpressure** rows that have no place to go are not requested;
    ``axi.rready`` is always 1.

    Parameters
    ----------
    params
        Compile-time maxima.

    Members
    -------
    lookups : In(stream.Signature(record_layout()))
        Those of a bag follow each other.
    config : In(stream.Signature(config_layout(), always_ready=True))
        LOAD words; those of other targets are ignored.
    admitted : In(16)
        The combiner's running count of admitted sub-batches.
    base : In(address_bits)
        Start of this core's memory, beat-aligned, constant while not ``idle``.
    axi : Out(ReadSignature)
        Rows in DRAM.
    partials : Out(stream.Signature(partial_layout(params)))
    tt_requests : Out(stream.Signature(tt_request_layout()))
    tt_rows : In(stream.Signature(tt_row_layout(params)))
        Slices of the rows asked for, in order; with ``tt_fraction``.
    range_errors, beats, stalls : Out(32)
        From reset, wrapping: wrong records; row beats received or read on chip; cycles in which
        the device held up the core (a sub-batch not admitted, or a partial not taken).
    error : Out(1)
        Pulse per beat with an error response. Its data were taken as they came.
    idle : Out(1)
        Every lookup taken has been answered with its partial.
    """

    lookups: stream.Interface
    config: stream.Interface
    admitted: Signal
    base: Signal
    axi: Any
    partials: stream.Interface
    tt_requests: stream.Interface
    tt_rows: stream.Interface
    range_errors: Signal
    beats: Signal
    stalls: Signal
    error: Signal
    idle: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        tt = {
            "tt_requests": Out(stream.Signature(tt_request_layout())),
            "tt_rows": In(stream.Signature(tt_row_layout(params))),
        }
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
                **(tt if "tt" in params.tiers else {}),
                "range_errors": Out(COUNTER_BITS),
                "beats": Out(COUNTER_BITS),
                "stalls": Out(COUNTER_BITS),
                "error": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the parts along the data's way; skid buffers cut the long paths of ``ready``."""
        m = Module()
        busy: list[Value] = []
        beats: list[Value] = []
        lanes, entered = self._lookups(m, busy)
        pieces = [self._lane(m, tier, lanes, busy, beats) for tier in self._params.tiers]
        self._pools(m, pieces, busy)

        # what moves on is seen at one of its two ends in every cycle, also with all of them a cycle
        # old; what has only just come is seen at once
        working = Signal()
        m.d.sync += working.eq(Cat(*busy).any())
        m.d.comb += self.idle.eq(~(working | entered | self.lookups.valid))
        count = Signal(range(len(beats) + 1))
        m.d.sync += [count.eq(sum(beats[1:], beats[0])), self.beats.eq(self.beats + count)]
        return m

    def _lookups(self, m: Module, busy: list[Value]) -> tuple[Lanes, Value]:
        """Connect what finds a lookup's lane and address; return also that one has just come."""
        p = self._params
        m.submodules.record_skid = record_skid = SkidBuffer(record_layout())
        m.submodules.check = check = BagCheck(p)
        m.submodules.checked_skid = checked_skid = SkidBuffer(checked_layout(p))
        m.submodules.gate = gate = AdmissionGate(p)
        m.submodules.gate_skid = gate_skid = SkidBuffer(checked_layout(p))
        m.submodules.remap = remap = Remap(p)
        m.submodules.place_skid = place_skid = SkidBuffer(place_layout(p))
        m.submodules.bound = bound = Bound(p)
        m.submodules.routed_skid = routed_skid = SkidBuffer(routed_layout(p))
        m.submodules.lanes = lanes = Lanes(p)
        wiring.connect(m, wiring.flipped(self.lookups), record_skid.i)
        wiring.connect(m, record_skid.o, check.i)
        wiring.connect(m, check.o, checked_skid.i)
        wiring.connect(m, checked_skid.o, gate.i)
        wiring.connect(m, gate.o, gate_skid.i)
        wiring.connect(m, gate_skid.o, remap.i)
        wiring.connect(m, wiring.flipped(self.config), remap.config)
        wiring.connect(m, remap.o, place_skid.i)
        wiring.connect(m, place_skid.o, bound.i)
        wiring.connect(m, bound.o, routed_skid.i)
        wiring.connect(m, routed_skid.o, lanes.i)
        m.d.comb += [
            gate.admitted.eq(self.admitted),
            bound.base.eq(self.base),
            bound.limit.eq(remap.limit),
        ]
        held_up, dropped = Signal(), Signal()
        wrong = Signal(2)
        m.d.sync += [
            held_up.eq(gate.waiting | (self.partials.valid & ~self.partials.ready)),
            dropped.eq(check.dropped),
            wrong.eq(dropped + bound.refused),
            self.stalls.eq(self.stalls + held_up),
            self.range_errors.eq(self.range_errors + wrong),
        ]
        busy += [
            record_skid.o.valid,
            check.busy,
            checked_skid.o.valid,
            gate.busy,
            gate_skid.o.valid,
            remap.busy,
            place_skid.o.valid,
            bound.busy,
            routed_skid.o.valid,
            lanes.busy,
            dropped,
            bound.refused,
            wrong.any(),
        ]
        return lanes, record_skid.o.valid

    def _lane(
        self, m: Module, tier: str, lanes: Lanes, busy: list[Value], beats: list[Value]
    ) -> stream.Interface:
        """Connect the lane of ``tier``; return its pieces."""
        p = self._params
        depth = p.outstanding if tier == "dram" else p.request_depth
        rows = DeepQueue(row_layout(p), depth)
        requests = DeepQueue(lane_request_layout(p, tier), p.request_depth)
        skid = SkidBuffer(piece_layout(p))
        m.submodules[f"rows_{tier}"] = rows
        m.submodules[f"requests_{tier}"] = requests
        m.submodules[f"piece_skid_{tier}"] = skid
        wiring.connect(m, getattr(lanes, f"requests_{tier}"), requests.i)
        wiring.connect(m, getattr(lanes, f"rows_{tier}"), rows.i)
        busy += [rows.busy, requests.busy, skid.o.valid]
        if tier == "tt":
            m.submodules.pieces_tt = pieces = TtPieces(p)
            wiring.connect(m, requests.o, wiring.flipped(self.tt_requests))
            wiring.connect(m, wiring.flipped(self.tt_rows), pieces.rows)
            wiring.connect(m, rows.o, pieces.lookups)
            wiring.connect(m, pieces.o, skid.i)
            busy.append(pieces.busy)
            return skid.o
        source: Any = RowFetch(p) if tier == "dram" else OnchipRows(p)
        m.submodules[f"source_{tier}"] = source
        m.submodules[f"slicer_{tier}"] = slicer = Slicer(p)
        wiring.connect(m, requests.o, source.requests)
        wiring.connect(m, source.beats, slicer.beats)
        if p.rowwise:
            wiring.connect(m, source.tails, slicer.tails)
        wiring.connect(m, rows.o, slicer.lookups)
        wiring.connect(m, slicer.o, skid.i)
        if tier == "dram":
            wiring.connect(m, source.axi, wiring.flipped(self.axi))
            m.d.comb += self.error.eq(source.error)
        else:
            wiring.connect(m, wiring.flipped(self.config), source.config)
        busy += [source.busy, slicer.busy]
        beats.append(source.beat)
        return skid.o

    def _pools(self, m: Module, pieces: list[stream.Interface], busy: list[Value]) -> None:
        """Connect one pool for all lanes, or one for the first and one for the others."""
        p = self._params
        groups = [pieces] if p.pool_beats == 1 else [pieces[:1], pieces[1:]]
        partials = []
        for index, group in enumerate(groups):
            merge, pool = PieceMerge(p, len(group)), Pool(p, len(group))
            skid = SkidBuffer(partial_layout(p))
            m.submodules[f"merge_{index}"] = merge
            m.submodules[f"pool_{index}"] = pool
            m.submodules[f"partial_skid_{index}"] = skid
            for piece, port in zip(group, merge.i, strict=True):
                wiring.connect(m, piece, port)
            if p.rowwise:
                m.submodules[f"dequantise_{index}"] = dequantise = Dequantise(p)
                wiring.connect(m, merge.o, dequantise.i)
                wiring.connect(m, dequantise.o, pool.i)
                busy.append(dequantise.busy)
            else:
                wiring.connect(m, merge.o, pool.i)
            wiring.connect(m, pool.o, skid.i)
            busy += [merge.o.valid, pool.busy, skid.o.valid]
            partials.append(skid.o)
        merged, held = merge_tree(m, partial_layout(p), partials)
        busy.append(held)
        wiring.connect(m, merged, wiring.flipped(self.partials))
