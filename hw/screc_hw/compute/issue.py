"""Address generators: one walks the tiles of a LINEAR, one the words of a COPY or DOT."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out

from screc_hw.compute.layouts import issue_layout, operation_layout, read_layout
from screc_hw.compute.params import ComputeParams
from screc_hw.protocol import LAYER_FIELDS, Operation, Source
from screc_hw.stream import index_bits

__all__ = ["FeatureIssue", "LinearIssue"]

N_BITS = LAYER_FIELDS["n"][1]


class LinearIssue(wiring.Component):
    """Issues the inputs of a LINEAR, tile after tile.

    **Latency** 1 cycle from ``start``. **Throughput** one input per cycle; a tile begins no sooner
    than ``columns`` cycles after the one before, so that their results do not meet.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    start : In(1)
    operation : In(operation_layout())
        Sampled with ``start``.
    issue : Out(issue_layout(params))
    """

    start: Signal
    operation: View
    issue: View

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "start": In(1),
                "operation": In(operation_layout()),
                "issue": Out(issue_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters."""
        m = Module()
        p = self._params
        op, issue = self.operation, self.issue
        running, dense = Signal(), Signal()
        base, address = Signal.like(issue.activation), Signal.like(issue.activation)
        weight = Signal.like(issue.weight)
        inputs, left = Signal(index_bits(p.max_k)), Signal(index_bits(p.max_k))  # less 1
        outputs = Signal(N_BITS)
        final, first = Signal(), Signal()
        spacing = Signal(range(p.columns))
        go = Signal()
        m.d.comb += [
            go.eq(running & (~first | (spacing == 0))),
            issue.valid.eq(go),
            issue.dense.eq(dense),
            issue.pop.eq(final),
            issue.first.eq(go & first),
            issue.last.eq(go & (left == 0)),
            issue.remaining.eq(Mux(final, outputs, p.columns)),
            issue.activation.eq(address),
            issue.weight.eq(weight),
        ]
        m.d.sync += final.eq(outputs <= p.columns)
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        with m.If(go):
            m.d.sync += [weight.eq(weight + 1), address.eq(address + 1), left.eq(left - 1)]
            m.d.sync += first.eq(0)
            with m.If(first):
                m.d.sync += spacing.eq(p.columns - 1)
            with m.If(left == 0):
                m.d.sync += [
                    first.eq(1),
                    left.eq(inputs),
                    address.eq(base),
                    outputs.eq(outputs - p.columns),
                    running.eq(~final),
                ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                first.eq(1),
                dense.eq(op.source == Source.DENSE),
                base.eq(op.source_base),
                address.eq(op.source_base),
                weight.eq(op.weight_base),
                inputs.eq(op.k - 1),
                left.eq(op.k - 1),
                outputs.eq(op.n),
                final.eq(op.n <= p.columns),
            ]
        return m


class FeatureIssue(wiring.Component):
    """Issues the word reads of a COPY or of a DOT's pairs, in step for all rows.

    **Latency** 1 cycle from ``start``; :attr:`ComputeParams.copy_latency` or ``dot_latency`` cycles
    from a read to its ``valid``. **Throughput** one component per cycle of a COPY, ``dot_lanes``
    products per cycle of a DOT.

    Parameters
    ----------
    params
        The core's parameters.

    Members
    -------
    start : In(1)
    operation : In(operation_layout())
        Sampled with ``start``.
    slot_base : In(range(feature_words))
        First word of the sub-batch's slot.
    read : Out(read_layout(params))
    valid, final : Out(1)
        The rows' values hold a result; the operation's last.
    """

    start: Signal
    operation: View
    slot_base: Signal
    read: View
    valid: Signal
    final: Signal

    def __init__(self, params: ComputeParams) -> None:
        self._params = params
        super().__init__(
            {
                "start": In(1),
                "operation": In(operation_layout()),
                "slot_base": In(index_bits(params.feature_words)),
                "read": Out(read_layout(params)),
                "valid": Out(1),
                "final": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters: parts of a word, words of a vector, pairs."""
        m = Module()
        p = self._params
        op = self.operation
        running, dot = Signal(), Signal()
        address = self.read.left
        left, right = Signal.like(address), Signal.like(address)
        base, row_base, start_base = (
            Signal.like(address, name=n) for n in ("base", "row", "begin")
        )
        part, parts = Signal(range(p.lanes)), Signal(range(p.lanes))  # parts less 1
        words, word = Signal(index_bits(p.vector_words)), Signal(index_bits(p.vector_words))
        rows_left, pairs_left, row = Signal(N_BITS), Signal(N_BITS), Signal(N_BITS)
        part_end, end, final = Signal(), Signal(), Signal()
        m.d.comb += [
            start_base.eq(self.slot_base + op.source_base),
            part_end.eq(part == parts),
            end.eq(part_end & (word == 0)),
            final.eq(end & (rows_left == 0) & (pairs_left == 0)),
            self.read.left.eq(left),
            self.read.right.eq(right),
            self.read.dot.eq(dot),
        ]
        with m.If(running):
            m.d.sync += part.eq(Mux(part_end, 0, part + 1))
            with m.If(part_end):
                m.d.sync += [left.eq(left + 1), right.eq(right + 1), word.eq(word - 1)]
            with m.If(end):
                m.d.sync += [word.eq(words), running.eq(~final)]
                with m.If(pairs_left == 0):  # the words of the next vector i follow
                    m.d.sync += [
                        row_base.eq(left + 1),
                        right.eq(base),
                        row.eq(row + 1),
                        pairs_left.eq(row),
                        rows_left.eq(rows_left - 1),
                    ]
                with m.Else():
                    m.d.sync += [left.eq(row_base), pairs_left.eq(pairs_left - 1)]
        with m.If(self.start):
            is_dot = op.operation == Operation.DOT
            first_row = start_base + Mux(is_dot, op.k, 0)
            m.d.sync += [
                running.eq(1),
                dot.eq(is_dot),
                base.eq(start_base),
                right.eq(start_base),
                left.eq(first_row),
                row_base.eq(first_row),
                part.eq(0),
                parts.eq(Mux(is_dot, p.lanes // p.dot_lanes - 1, p.lanes - 1)),
                words.eq(op.k - 1),
                word.eq(op.k - 1),
                row.eq(1),
                pairs_left.eq(0),
                rows_left.eq(Mux(is_dot, op.n - 2, 0)),
            ]
        first = running & (part == 0) & (word == words)
        self._follow(m, running & (part == 0), first, running, dot, end, final)
        return m

    def _follow(
        self,
        m: Module,
        load: object,
        first: object,
        running: Signal,
        dot: Signal,
        end: Signal,
        final: Signal,
    ) -> None:
        """Delay what goes with a read to where the rows need it."""
        p = self._params
        marks = {
            "load": (load, p.read_latency),
            "first": (first, p.read_latency + p.dot_levels + 2),
        }
        for name, (value, cycles) in marks.items():
            m.d.comb += self.read[name].eq(_delayed(m, value, cycles, name))
        copy = running & ~dot
        valid: Value = _delayed(m, copy, p.copy_latency, "copied")
        last: Value = _delayed(m, copy & final, p.copy_latency, "copied_last")
        if p.dot:
            product = running & dot & end
            valid |= _delayed(m, product, p.dot_latency, "multiplied")
            last |= _delayed(m, product & final, p.dot_latency, "multiplied_last")
        m.d.comb += [self.valid.eq(valid), self.final.eq(last)]


def _delayed(m: Module, value: object, cycles: int, name: str) -> Value:
    """Return a bit after ``cycles`` registers, which reset clears."""
    line = Signal(cycles, name=name)
    m.d.sync += line.eq((line << 1) | value)
    return line[-1]
