"""Parameters of a whole device: which cores, how large, and what they cost.

:class:`DeviceParams` is the one object that planner, generator, golden model and test bench agree
on. Each core's own parameters, with every derived width and its cycle and resource formulas, are in
``memory.params``, ``tt.params``, ``combiner.params``, ``compute.params`` and ``device.params``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

from screc_hw.combiner.params import CombinerParams
from screc_hw.compute.params import ComputeParams
from screc_hw.device.params import HostParams
from screc_hw.memory.params import MemoryCoreParams
from screc_hw.model import ModelShape
from screc_hw.protocol import BEAT_BYTES
from screc_hw.resources import Resources
from screc_hw.tt.params import TtParams
from screc_hw.tt.shape import TtShape

STREAM_WORDS = 512
"""Words of a half of the weight memory, per position, where layers need no more: two block RAMs
for both halves, and a latency of 100 cycles is a fifth of what it takes to fill."""


def pow2_at_least(value: int) -> int:
    """Smallest power of two that is at least ``value``."""
    return 1 << max(0, value - 1).bit_length()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TtLoad:
    """What a device rebuilds of one table: ``rows`` per sample, mean.

    ``hit_rate`` is the share of them whose prefix is pinned.
    """

    shape: TtShape
    rows: float
    hit_rate: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted clock cycles of one batch in steady state, by part; the largest is the bottleneck.

    ``total`` is for a block of ``samples`` run alone, fill and drain included.
    """

    samples: int
    total: float
    parts: dict[str, float]

    @property
    def per_sample(self) -> float:
        """Cycles per sample."""
        return self.total / self.samples

    @property
    def bottleneck(self) -> str:
        """Name of the slowest part."""
        return max(self.parts, key=lambda name: self.parts[name])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceParams:
    """A device: ``memory`` gather cores, ``compute`` compute cores, one combiner, one host port.

    Parameters
    ----------
    memory, compute
        Counts of cores; ``compute`` is a power of two.
    gather, combiner, core, host
        Parameters of each kind of core. They agree on ``lanes``, ``rows``, ``slots`` and widths;
        :meth:`for_model` makes them so and ``__post_init__`` checks it.
    tt
        Of the TT reconstructor that each memory core has; None without TT rows. All of them hold
        the cores of all tables.
    """

    memory: int
    compute: int
    gather: MemoryCoreParams
    combiner: CombinerParams
    core: ComputeParams
    host: HostParams
    tt: TtParams | None = None

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"a device has at least 1 memory core for now, not {self.memory}")
        if self.compute < 1 or self.compute & (self.compute - 1):
            raise ValueError(f"compute cores must be a power of two, not {self.compute}")
        for name in ("lanes", "rows", "slots", "acc_bits", "max_features"):
            a, b = getattr(self.gather, name), getattr(self.combiner, name)
            if a != b:
                raise ValueError(f"gather {name} {a} and combiner {name} {b} must be equal")
        if self.core.rows != self.combiner.rows or self.core.lanes != self.combiner.lanes:
            raise ValueError(
                f"compute core rows × lanes {self.core.rows} × {self.core.lanes} and combiner "
                f"{self.combiner.rows} × {self.combiner.lanes} must be equal"
            )
        if self.core.slots * self.compute != self.combiner.slots:
            raise ValueError(
                f"combiner slots {self.combiner.slots} must be slots × compute cores "
                f"{self.core.slots} × {self.compute}"
            )
        fraction = None if self.tt is None else self.tt.fraction
        for part in (self.gather, self.combiner):
            if part.tt_fraction != fraction:
                raise ValueError(
                    f"tt_fraction of gather {self.gather.tt_fraction} and combiner "
                    f"{self.combiner.tt_fraction} must be the reconstructors' fraction, {fraction}"
                )
        if self.core.stream_words and self.gather.port_bits != 8 * BEAT_BYTES:
            raise ValueError(
                f"weights are streamed through ports of {8 * BEAT_BYTES} bits, "
                f"not {self.gather.port_bits}"
            )
        if self.core.address_bits != self.gather.address_bits:
            raise ValueError(
                f"address_bits of gather {self.gather.address_bits} and compute core "
                f"{self.core.address_bits} must be equal"
            )
        if self.tt is not None and self.tt.slice_lanes != self.gather.lanes:
            raise ValueError(
                f"slice_lanes {self.tt.slice_lanes} of the reconstructors and gather lanes "
                f"{self.gather.lanes} must be equal"
            )

    @classmethod
    def for_model(
        cls,
        model: ModelShape,
        *,
        memory: int = 1,
        compute: int = 1,
        rows: int = 8,
        columns: int = 8,
        port_bits: int = 512,
        outstanding: int = 64,
        slots: int = 4,
        pair_units: int | None = None,
        onchip_beats: int = 0,
        pool_beats: int = 1,
        tt: TtParams | None = None,
        stream: bool = False,
    ) -> DeviceParams:
        """Size a device's maxima for one model; ``tt`` is made for its :meth:`lanes`.

        ``stream``: the weights of the MLPs are read from memory as they are needed.

        Raises
        ------
        ValueError
            If the model needs something these cores cannot do; the message names it.
        """
        dims = {table.dim for table in model.tables}
        lanes = cls.lanes(model, port_bits=port_bits)
        fraction = None if tt is None else tt.fraction
        features = max(len(model.features), 1)
        max_slices = max((d // lanes for d in dims), default=1)
        core = ComputeParams.for_model(
            model,
            rows=rows,
            columns=columns,
            lanes=lanes,
            slots=slots,
            pair_units=pair_units,
            stream_words=STREAM_WORDS if stream else 0,
        )
        rowwise = any(table.rowwise for table in model.tables)
        gather = MemoryCoreParams(
            port_bits=port_bits,
            lanes=lanes,
            outstanding=outstanding,
            max_features=features,
            max_slices=max_slices,
            rows=rows,
            slots=slots * compute,
            rowwise=rowwise,
            onchip_beats=onchip_beats,
            tt_fraction=fraction,
            pool_beats=pool_beats,
        )
        return cls(
            memory=memory,
            compute=compute,
            gather=gather,
            combiner=CombinerParams(
                lanes=lanes,
                rows=rows,
                slots=slots * compute,
                max_features=features,
                max_slices=max_slices,
                vector_words=core.vector_words,
                mean=any(f.mode == "mean" for f in model.features),
                rowwise=rowwise,
                tt_fraction=fraction,
            ),
            core=core,
            host=HostParams(),
            tt=tt,
        )

    @property
    def streams(self) -> int:
        """Compute cores that the busiest memory port feeds with weights."""
        return -(-self.compute // self.memory) if self.core.stream_words else 0

    @property
    def port_id_bits(self) -> int:
        """Width of the memory ports' IDs: records and rows, and every core's weights."""
        return 1 + self.streams.bit_length()

    @property
    def port_beats(self) -> int:
        """Beats that may be outstanding on a memory port."""
        return self.gather.port_beats + self.streams * 2 * self.core.stream_words

    @staticmethod
    def lanes(model: ModelShape, *, port_bits: int = 512) -> int:
        """Components that a memory core pools per cycle for a model.

        As many as every dimension has in common, up to 64; or 128 where all rows are 4-bit ones of
        whole such slices, which then take a beat each.

        Raises
        ------
        ValueError
            If a dimension is not a multiple of 4.
        """
        dims = {table.dim for table in model.tables}
        nibbles = all(table.code_bits == 4 for table in model.tables)
        if nibbles and port_bits == 512 and dims and not math.gcd(*dims) % 128:
            return 128
        lanes = min(math.gcd(*dims, 64) if dims else 8, port_bits // 8)
        if lanes < 4:
            raise ValueError(f"embedding dimensions must be multiples of 4, not {sorted(dims)}")
        return lanes

    def with_tt(self, tt: TtParams | None) -> DeviceParams:
        """Return the device with other reconstructors, or none."""
        fraction = None if tt is None else tt.fraction
        return dataclasses.replace(
            self,
            tt=tt,
            gather=dataclasses.replace(self.gather, tt_fraction=fraction),
            combiner=dataclasses.replace(self.combiner, tt_fraction=fraction),
        )

    def resources(self) -> Resources:
        """Estimate the device's resources: the sum of its cores, the shell excluded."""
        rebuild = Resources() if self.tt is None else self.tt.resources()
        return (
            self.memory * (self.gather.resources() + rebuild)
            + self.combiner.resources(inputs=self.memory, cores=self.compute)
            + self.compute * self.core.resources()
            + self.host.resources(memory=self.memory, compute=self.compute)
        )

    def predict(
        self,
        model: ModelShape,
        samples: int,
        *,
        lookups: float | None = None,
        latency: int = 64,
        tt: Sequence[TtLoad] = (),
        replicated: Collection[int] = (),
    ) -> Prediction:
        """Predict the cycles of one RUN block of ``samples``.

        Parameters
        ----------
        model
            The model that runs.
        samples
            Samples in the block.
        lookups
            Mean lookups per sample over all features; the model's own where None.
        latency
            Memory read latency in cycles, request accepted to first data beat.
        tt
            Rows that are rebuilt, table by table; they are among the ``lookups``.
        replicated
            Numbers of the tables that every memory core holds a copy of.
        """
        count = model.lookups if lookups is None else lookups
        batches = -(-samples // self.core.rows)
        rows = self.core.rows
        mean_slices = (
            sum(f.pooling * model.tables[f.table].dim for f in model.features)
            / max(model.lookups, 1e-9)
            / self.gather.lanes
        )
        row_beats = sum(
            f.pooling * model.tables[f.table].row_beats(self.gather.port_bits // 8)
            for f in model.features
        ) / max(model.lookups, 1e-9)
        row_cycles = sum(
            f.pooling * self.gather.row_cycles(model.tables[f.table]) for f in model.features
        ) / max(model.lookups, 1e-9)
        gather = self.gather.cycles(
            lookups=count * rows / self.memory,
            slices=mean_slices,
            row_beats=row_beats,
            row_cycles=row_cycles,
            latency=latency,
            onchip=min(1.0, sum(load.rows for load in tt) / max(count, 1e-9)),
        )
        partials = self.combiner.expected_partials(
            model, inputs=self.memory, lookups=count, replicated=replicated
        )
        combine = self.combiner.cycles(model, partials_per_bag=partials)
        compute = self.core.cycles(model, rows, latency=latency)
        host = self.host.cycles(model, rows=rows)
        parts = {
            "gather": gather * batches
            + self.streams * self.core.streamed_beats(model, -(-batches // self.compute)),
            "combine": combine * batches,
            "compute": compute * -(-batches // self.compute),
            "host": host * batches,
        }
        if self.tt is not None:
            params = self.tt
            rebuild = sum(
                params.cycles(load.shape, load.rows * rows / self.memory, load.hit_rate)
                for load in tt
            )
            parts["tt"] = rebuild * batches
        steady = max(parts.values())
        # the first sub-batch: its words, then its bags while what needs no bag is computed
        bags = self.gather.fill(latency=latency) + gather + combine
        ahead = self.core.ahead_cycles(model, latency=latency)
        alone = self.core.latency(model, latency=latency)
        fill = self.host.fill(latency=latency) + host + max(bags - ahead, 0)
        # the last sub-batch, once its bags are complete; its share of the slowest part is counted
        fill += alone - ahead if parts["compute"] < steady else max(alone - compute, 0)
        return Prediction(samples=samples, total=steady + fill, parts=parts)

    def as_dict(self) -> dict[str, Any]:
        """Return every parameter as plain numbers, for ``design.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DeviceParams:
        """Inverse of :meth:`as_dict`."""
        return cls(
            memory=data["memory"],
            compute=data["compute"],
            gather=MemoryCoreParams(**data["gather"]),
            combiner=CombinerParams(**data["combiner"]),
            core=ComputeParams(**data["core"]),
            host=HostParams(**data["host"]),
            tt=None if data["tt"] is None else TtParams(**data["tt"]),
        )
