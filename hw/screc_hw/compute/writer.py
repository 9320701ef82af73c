"""What is written into the activation memory, one source per cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import bank_write_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from screc_hw.stream import index_bits

__all__ = ["WRITE_CYCLES", "BankWriter", "spot_layout", "stripe_layout"]

WRITE_CYCLES = 3
"""Cycles from a write's transfer to its being read."""


def spot_layout(params: ComputeParams) -> data.StructLayout:
    """A code of every sample that ``enable`` names, for a word of one bank."""
    return data.StructLayout(
        {
            "bank": index_bits(CHAIN),
            "address": index_bits(params.bank_words),
            "enable": params.rows,
            "codes": data.ArrayLayout(signed(8), params.rows),
        }
    )


def stripe_layout(params: ComputeParams) -> data.StructLayout:
    """Codes of one sample for a word of every bank that ``enable`` names."""
    return data.StructLayout(
        {
            "address": index_bits(params.bank_words),
            "row": index_bits(params.rows),
            "enable": CHAIN,
            "codes": data.ArrayLayout(signed(8), CHAIN),
        }
    )


class BankWriter(wiring.Component):
    """Columns of results first, then pairs, then dense words, then bags.

    **Latency** 1 cycle. **Throughput** 1 write per cycle. **Backpressure** of all but columns.

    Parameters
    ----------
    params
        Sizes.

    Members
    -------
    columns : In(stream.Signature(spot_layout(params), always_ready=True))
    pairs, dense : In(stream.Signature(spot_layout(params)))
    bags : In(stream.Signature(stripe_layout(params)))
    writes : Out(bank_write_layout(params)).array(8)
    """

    columns: stream.Interface
    pairs: stream.Interface
    dense: stream.Interface
    bags: stream.Interface
    writes: list[View[data.StructLayout]]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        spot = spot_layout(params)
        super().__init__(
            {
                "columns": In(stream.Signature(spot, always_ready=True)),
                "pairs": In(stream.Signature(spot)),
                "dense": In(stream.Signature(spot)),
                "bags": In(stream.Signature(stripe_layout(params))),
                "writes": Out(bank_write_layout(params)).array(CHAIN),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Choose, then register for every bank."""
        m = Module()
        p = self._params
        taken: Any = Signal()
        spot: Any = Signal(spot_layout(p), name="spot")
        spot_valid = Signal()
        m.d.comb += [
            taken.eq(self.columns.valid),
            self.pairs.ready.eq(~self.columns.valid),
            self.dense.ready.eq(~self.columns.valid & ~self.pairs.valid),
            self.bags.ready.eq(~self.columns.valid & ~self.pairs.valid & ~self.dense.valid),
            spot_valid.eq(self.columns.valid | self.pairs.valid | self.dense.valid),
            spot.eq(
                Mux(
                    self.columns.valid,
                    self.columns.payload,
                    Mux(self.pairs.valid, self.pairs.payload, self.dense.payload),
                )
            ),
        ]
        bag: Any = self.bags.payload
        for k, write in enumerate(self.writes):
            register: Any = Signal(bank_write_layout(p), name=f"write_{k}")
            m.d.comb += write.eq(register)
            mine = spot_valid & (spot.bank == k)
            striped = ~spot_valid & self.bags.valid & bag.enable[k]
            one = Signal(p.rows, name=f"row_{k}")
            m.d.comb += one.eq(1 << bag.row)
            m.d.sync += [
                register.enable.eq(Mux(mine, spot.enable, 0) | Mux(striped, one, 0)),
                register.address.eq(Mux(spot_valid, spot.address, bag.address)),
            ]
            for row in range(p.rows):
                m.d.sync += register.data[row].eq(Mux(spot_valid, spot.codes[row], bag.codes[k]))
        return m
