"""From one stream of lookups to a lane per tier, each with the ends of its own partials."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from screc_hw.memory.layouts import (
    onchip_layout,
    request_layout,
    routed_layout,
    row_layout,
    tt_request_layout,
)
from screc_hw.memory.params import MemoryCoreParams

__all__ = ["Lanes", "lane_request_layout"]


def lane_request_layout(params: MemoryCoreParams, tier: str) -> Any:
    """Return the payload of the requests of a lane."""
    if tier == "tt":
        return tt_request_layout()
    return request_layout(params) if tier == "dram" else onchip_layout(params)


class Lanes(wiring.Component):
    """Sends every lookup to its lane, as a request and as a row to come.

    The request leaves at once. The row is held until the next lookup of its lane or the end of its
    bag is known, for then it is known whether it is the last of the lane's partial. The end of a
    bag reaches all lanes in the same cycle. What is held never waits for its own lane's data.

    **Latency** 0 for requests, 1 cycle or more for rows. **Throughput** 1 lookup per cycle.
    **Backpressure** ``i.ready`` depends on the outputs' ``ready`` by two gates.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(stream.Signature(routed_layout(params)))
        ``row.last`` marks the last lookup of a bag.
    requests : one Out(stream) per tier, ``requests_dram`` and so on
        None for lookups that are ``zero``.
    rows : one Out(stream.Signature(row_layout(params))) per tier, ``rows_dram`` and so on
        ``last`` marks the last row of the lane's partial.
    busy : Out(1)
    """

    i: stream.Interface
    busy: Signal

    def __init__(self, params: MemoryCoreParams) -> None:
        self._params = params
        members: dict[str, Any] = {
            "i": In(stream.Signature(routed_layout(params))),
            "busy": Out(1),
        }
        for tier in params.tiers:
            layout = lane_request_layout(params, tier)
            members[f"requests_{tier}"] = Out(stream.Signature(layout))
            members[f"rows_{tier}"] = Out(stream.Signature(row_layout(params)))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Build a holding register per lane."""
        m = Module()
        lookup = self.i.payload
        taken = Signal()
        ready = []
        held_up = []
        for index, tier in enumerate(self._params.tiers):
            request: Any = getattr(self, f"requests_{tier}")
            rows: Any = getattr(self, f"rows_{tier}")
            held = Signal.like(rows.payload, name=f"held_{tier}")
            held_valid = Signal(name=f"held_valid_{tier}")
            known = Signal(name=f"known_{tier}")  # held.last is final
            mine, asks, room = (Signal(name=f"{n}_{tier}") for n in ("mine", "asks", "room"))
            m.d.comb += [
                mine.eq(lookup.lane[index]),
                asks.eq(~lookup.row.zero if tier == "dram" else 1),
                room.eq(~held_valid | rows.ready),
                request.payload.eq(lookup[tier]),
                request.valid.eq(self.i.valid & mine & asks & room),
                rows.payload.eq(held),
                rows.valid.eq(held_valid & (known | (self.i.valid & mine))),
            ]
            ready.append(mine & room & (request.ready | ~asks))
            held_up.append(held_valid)
            with m.If(rows.valid & rows.ready):
                m.d.sync += held_valid.eq(0)
            with m.If(taken & mine):
                m.d.sync += [held.eq(lookup.row), held_valid.eq(1), known.eq(lookup.row.last)]
            with m.Elif(taken & lookup.row.last & ~known):
                m.d.sync += [held.last.eq(1), known.eq(1)]
        m.d.comb += [
            self.i.ready.eq(Cat(*ready).any()),
            taken.eq(self.i.valid & self.i.ready),
            self.busy.eq(Cat(*held_up).any()),
        ]
        return m
