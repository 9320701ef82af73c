"""The INT8 array: output-stationary, samples along rows, output channels along columns.

Activations walk from column to column, one per cycle, and the weights of column ``c`` arrive ``c``
cycles late, so column ``c`` finishes a tile ``c`` cycles after column 0. That skew drains the tile
at one column per cycle through a multiplexer: the accumulators need no copy, and tiles follow each
other without a bubble as long as one lasts at least as many cycles as there are columns.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import step_layout, values_layout
from screc_hw.compute.params import GROUP_COLUMNS, ComputeParams

__all__ = ["ArrayGroup", "SystolicArray"]

HALF = GROUP_COLUMNS // 2
"""Columns of the first result multiplexer: 4 values and 2 select bits fill a LUT6."""


class ArrayGroup(wiring.Component):
    """Eight columns of the array.

    A processing element is a DSP48E2's operand, product and accumulator registers. The accumulator
    is written as ``Mux(first, 0, acc) + product``, the form that synthesis maps into it.

    **Latency** 3 cycles from a column's last input to its accumulator, 2 more to ``column``; 8 from
    ``i`` to ``o``. **Throughput** one input per cycle. **Backpressure** none.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i, o : In, Out(step_layout(params))
        The walking activations; ``o`` feeds the next group.
    weights : In(ArrayLayout(signed(8), 8))
        Column ``c``'s weight comes ``c`` cycles after the activations it belongs to.
    ahead : Out(1)
        A column leaves two cycles later on ``SystolicArray.column``.
    column : Out(values_layout(params))
        Accumulators of a finished column, else 0.
    """

    i: View[data.StructLayout]
    o: View[data.StructLayout]
    weights: View[data.ArrayLayout]
    ahead: Signal
    column: View[data.ArrayLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "i": In(step_layout(params)),
                "o": Out(step_layout(params)),
                "weights": In(data.ArrayLayout(signed(8), GROUP_COLUMNS)),
                "ahead": Out(1),
                "column": Out(values_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the columns, then the multiplexer of their results."""
        m = Module()
        accumulators = []
        finishing = []
        step: Any = self.i
        for column in range(GROUP_COLUMNS):
            here: Any = Signal(step_layout(self._params), name=f"step_{column}", reset_less=True)
            m.d.sync += here.eq(step)
            accumulators.append(self._column(m, column, here))
            finishing.append(self._finishing(m, column, here))
            step = here
        m.d.comb += [
            self.o.eq(step),
            self.o.remaining.eq(
                Mux(step.remaining > GROUP_COLUMNS, step.remaining - GROUP_COLUMNS, 0)
            ),
        ]
        self._drain(m, accumulators, finishing)
        return m

    def _column(self, m: Module, column: int, step: Any) -> list[Signal]:
        """Build one column's processing elements; return their accumulators."""
        bits = self._params.acc_bits
        weight = Signal(signed(8), name=f"weight_{column}", reset_less=True)
        first = Signal(name=f"first_{column}", reset_less=True)
        m.d.sync += [weight.eq(self.weights[column]), first.eq(step.first)]
        accumulators = []
        for row in range(self._params.rows):
            place = f"{column}_{row}"
            product = Signal(signed(16), name=f"product_{place}", reset_less=True)
            accumulator = Signal(signed(bits), name=f"accumulator_{place}", reset_less=True)
            m.d.sync += [
                product.eq(step.activations[row] * weight),
                accumulator.eq(Mux(first, 0, accumulator) + product),
            ]
            accumulators.append(accumulator)
        return accumulators

    def _finishing(self, m: Module, column: int, step: Any) -> Signal:
        """1 while the column's last product of a tile is being added."""
        finishing = Signal(name=f"finishing_{column}")
        m.d.sync += finishing.eq(step.last & (step.remaining > column))
        return finishing

    def _drain(self, m: Module, accumulators: list[list[Signal]], finishing: list[Signal]) -> None:
        """Select the finished column in two steps of a LUT6 each."""
        halves, valid = [], []
        for half in range(2):
            columns = range(half * HALF, (half + 1) * HALF)
            ends = [finishing[column] for column in columns]
            select = Signal(range(HALF), name=f"select_{half}")
            finished = Signal(name=f"finished_{half}")
            chosen: Any = Signal(values_layout(self._params), name=f"half_{half}", reset_less=True)
            chosen_valid = Signal(name=f"half_valid_{half}")
            m.d.sync += [
                select.eq(Cat(ends[1] | ends[3], ends[2] | ends[3])),
                finished.eq(reduce(operator.or_, ends)),
                chosen_valid.eq(finished),
            ]
            with m.Switch(select):
                for value, column in enumerate(columns):
                    with m.Case(value):
                        m.d.sync += [
                            chosen[row].eq(accumulators[column][row])
                            for row in range(self._params.rows)
                        ]
            halves.append(chosen.as_value())
            valid.append(chosen_valid)
        m.d.comb += self.ahead.eq(valid[0] | valid[1])
        m.d.sync += self.column.as_value().eq(
            Mux(valid[0], halves[0], 0) | Mux(valid[1], halves[1], 0)
        )


class SystolicArray(wiring.Component):
    """``columns // 8`` groups in a row, and the sum of their drains.

    **Latency** :attr:`latency` cycles from a tile's last input to column 0's results, one more per
    column. **Throughput** one input per cycle; tiles that begin at least ``columns`` cycles apart,
    or of fewer columns, do not disturb each other. **Backpressure** none.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    i : In(step_layout(params))
        ``activations`` must be 0 outside of tiles; within a tile they come in every cycle.
    weights : In(ArrayLayout(ArrayLayout(signed(8), 8), columns // 8))
        Column ``c``'s weight comes ``c`` cycles after the activations it belongs to.
    ahead : Out(1)
        ``column`` holds a column in two cycles.
    column : Out(values_layout(params))
    """

    latency = 6

    i: View[data.StructLayout]
    weights: View[data.ArrayLayout]
    ahead: Signal
    column: View[data.ArrayLayout]

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        group = data.ArrayLayout(signed(8), GROUP_COLUMNS)
        super().__init__(
            {
                "i": In(step_layout(params)),
                "weights": In(data.ArrayLayout(group, params.groups)),
                "ahead": Out(1),
                "column": Out(values_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Chain the groups."""
        m = Module()
        step = self.i
        groups = []
        for index in range(self._params.groups):
            group = m.submodules[f"group_{index}"] = ArrayGroup(self._params)
            m.d.comb += [group.i.eq(step), group.weights.eq(self.weights[index])]
            step = group.o
            groups.append(group)
        # at most one group drives a value other than 0
        m.d.comb += self.ahead.eq(reduce(operator.or_, (group.ahead for group in groups)))
        m.d.sync += self.column.as_value().eq(
            reduce(operator.or_, (group.column.as_value() for group in groups))
        )
        return m
