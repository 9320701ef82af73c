"""Devices that can be planned for: what a kernel may use, and what memories and links give."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from importlib import resources
from typing import Any

from pydantic import Field, field_validator, model_validator

from screc.config_validation import Record, nearest
from screc_hw.resources import Resources

OVERRIDE = "configuration"
"""Source of a figure that ``[[device]]`` gives."""

RESOURCE_NAMES = ("lut", "ff", "dsp", "bram36", "uram")
"""Resources that a device has some of in every SLR."""

RANDOM_ROW_BYTES = (64, 128, 256, 512)
"""Row sizes that the random-access figures are for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device: figures of one card.

    Resources are those of the region that a kernel may use, in all SLRs together; ``*_fill`` is the
    share of each that is planned with, and :meth:`budget` the product.
    """

    kind: str
    part: str
    platform: str
    slrs: int
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    slr_lut: tuple[int, ...]
    """LUTs of each SLR of the platform, by which ``lut`` is shared; likewise the next four."""
    slr_ff: tuple[int, ...]
    slr_dsp: tuple[int, ...]
    slr_bram36: tuple[int, ...]
    slr_uram: tuple[int, ...]
    lut_fill: float
    ff_fill: float
    dsp_fill: float
    bram_fill: float
    uram_fill: float
    memory: str
    """``ddr4`` or ``hbm2``."""
    channels: int
    """Memory channels (HBM: pseudo-channels)."""
    dram_gib: float
    """Memory of all channels together, in GiB."""
    peak_gbs: float
    """Peak of one channel, in GB/s."""
    random_64_gbs: float
    """GB/s of one channel on random rows of 64 bytes; likewise the next three."""
    random_128_gbs: float
    random_256_gbs: float
    random_512_gbs: float
    stream_gbs: float
    """GB/s of one channel on long runs."""
    ssd_gib: float | None
    """SSD behind the FPGA's switch, in GiB; None: the device has no SSD tier."""
    ssd_kiops: float | None
    """4 KiB random reads of the SSD, in thousands a second; None: not known, so not planned."""
    p2p_gbs: float | None
    """SSD to device memory, peer to peer, in GB/s; None: no SSD tier."""
    clock_mhz: float
    """Target clock of the kernel."""
    pcie: str
    pcie_gbs: float
    """Raw rate of the host link in one direction, in GB/s."""
    watts: float
    """Power limit of the card."""
    static_watts: float
    """Power of a device in use beside what its work takes: board, memories, shell, clocks, SSD."""
    dram_pj_bit: float
    """Energy of a bit to or from device memory, in pJ."""
    onchip_pj_beat: float
    """Energy of a beat of 64 bytes from on-chip memory, in pJ."""
    mac_pj: float
    """Energy of an 8-bit multiply-accumulate, in pJ."""
    link_pj_bit: float
    """Energy of a bit over the host link, in pJ."""
    ssd_uj_read: float
    """Energy of a 4 KiB read of the SSD and of its way to device memory, in uJ."""
    sources: dict[str, str]
    """Where each figure comes from; the tags are explained in ``data/devices.toml``."""

    @property
    def has_ssd(self) -> bool:
        """Whether there is an SSD tier."""
        return self.ssd_gib is not None and self.p2p_gbs is not None

    def budget(self) -> Resources:
        """Resources that may be planned with: fill limits applied, rounded down."""
        return Resources(
            **{name: self.filled(name, getattr(self, name)) for name in RESOURCE_NAMES}
        )

    def slr_budgets(self) -> tuple[Resources, ...]:
        """The same of each SLR: a core lies in one of them."""
        figures = [[self.filled(name, n) for n in self.by_slr(name)] for name in RESOURCE_NAMES]
        return tuple(
            Resources(**dict(zip(RESOURCE_NAMES, each, strict=True)))
            for each in zip(*figures, strict=True)
        )

    def by_slr(self, name: str, total: int | None = None) -> tuple[int, ...]:
        """What a kernel may use of a resource in each SLR: a total as the platform shares it.

        Fractions are rounded down. ``total`` is the device's unless another one is given.
        """
        total = getattr(self, name) if total is None else total
        shares = getattr(self, f"slr_{name}")
        if len(shares) == 1:
            return (total,)
        return tuple(total * share // sum(shares) for share in shares)

    def filled(self, name: str, have: int) -> int:
        """What may be planned with of an amount of a resource, rounded down."""
        return int(have * getattr(self, "bram_fill" if name == "bram36" else f"{name}_fill"))

    def random_gbs(self, row_bytes: int) -> float:
        """GB/s of useful bytes of one channel on random rows of ``row_bytes``.

        Linear between the figures; below 64 bytes the requests per second are those of 64, above
        512 the rate stays.
        """
        sizes = RANDOM_ROW_BYTES
        rates = [float(getattr(self, f"random_{size}_gbs")) for size in sizes]
        if row_bytes <= sizes[0]:
            return rates[0] * row_bytes / sizes[0]
        for i in range(1, len(sizes)):
            if row_bytes <= sizes[i]:
                part = (row_bytes - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
                return rates[i - 1] + part * (rates[i] - rates[i - 1])
        return rates[-1]


class DeviceConfig(Record):
    """``[[device]]``: a kind of device and how many; every other key overrides a figure of it."""

    kind: str
    """Name of the kind; ``screc devices`` lists them."""
    count: int = Field(default=1, ge=1)
    """How many there are."""
    lut: int | None = Field(default=None, ge=1)
    """LUTs that a kernel may use."""
    ff: int | None = Field(default=None, ge=1)
    """Flip-flops likewise."""
    dsp: int | None = Field(default=None, ge=1)
    """DSP48E2 likewise."""
    bram36: int | None = Field(default=None, ge=1)
    """RAMB36 likewise."""
    uram: int | None = Field(default=None, ge=0)
    """URAM288 likewise."""
    lut_fill: float | None = Field(default=None, gt=0, le=1)
    """Share of the LUTs that is planned with."""
    ff_fill: float | None = Field(default=None, gt=0, le=1)
    """Share of the flip-flops."""
    dsp_fill: float | None = Field(default=None, gt=0, le=1)
    """Share of the DSP48E2."""
    bram_fill: float | None = Field(default=None, gt=0, le=1)
    """Share of the RAMB36."""
    uram_fill: float | None = Field(default=None, gt=0, le=1)
    """Share of the URAM288."""
    channels: int | None = Field(default=None, ge=1)
    """Memory channels."""
    dram_gib: float | None = Field(default=None, gt=0)
    """Device memory, in GiB."""
    peak_gbs: float | None = Field(default=None, gt=0)
    """Peak of one memory channel, in GB/s."""
    random_64_gbs: float | None = Field(default=None, gt=0)
    """GB/s of one channel on random rows of 64 bytes."""
    random_128_gbs: float | None = Field(default=None, gt=0)
    """... of 128 bytes."""
    random_256_gbs: float | None = Field(default=None, gt=0)
    """... of 256 bytes."""
    random_512_gbs: float | None = Field(default=None, gt=0)
    """... of 512 bytes."""
    stream_gbs: float | None = Field(default=None, gt=0)
    """GB/s of one channel on long runs."""
    ssd_gib: float | None = Field(default=None, gt=0)
    """SSD, in GiB; needs ``p2p_gbs`` on a card that has none of its own."""
    ssd_kiops: float | None = Field(default=None, gt=0)
    """4 KiB random reads of the SSD, in thousands a second."""
    p2p_gbs: float | None = Field(default=None, gt=0)
    """SSD to device memory, in GB/s."""
    clock_mhz: float | None = Field(default=None, gt=0, le=1000)
    """Target clock."""
    pcie_gbs: float | None = Field(default=None, gt=0)
    """Host link in one direction, in GB/s."""
    watts: float | None = Field(default=None, gt=0)
    """Power limit."""
    static_watts: float | None = Field(default=None, ge=0)
    """Power of a device in use beside what its work takes."""
    dram_pj_bit: float | None = Field(default=None, ge=0)
    """Energy of a bit to or from device memory, in pJ."""
    onchip_pj_beat: float | None = Field(default=None, ge=0)
    """Energy of 64 bytes from on-chip memory, in pJ."""
    mac_pj: float | None = Field(default=None, ge=0)
    """Energy of an 8-bit multiply-accumulate, in pJ."""
    link_pj_bit: float | None = Field(default=None, ge=0)
    """Energy of a bit over the host link, in pJ."""
    ssd_uj_read: float | None = Field(default=None, ge=0)
    """Energy of a 4 KiB read of the SSD, in uJ."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in _kinds():
            raise ValueError(f"no kind {kind!r}; {nearest(kind, _kinds())}")
        return kind

    @model_validator(mode="after")
    def _whole_ssd(self) -> DeviceConfig:
        figures = _kinds()[self.kind]
        have = {
            name: getattr(self, name) is not None or name in figures
            for name in ("ssd_gib", "p2p_gbs")
        }
        if any(have.values()) and not all(have.values()):
            given, absent = sorted(have, key=lambda name: not have[name])
            raise ValueError(f"{self.kind} has no SSD of its own: {given} needs {absent} too")
        return self

    @model_validator(mode="after")
    def _power_for_work(self) -> DeviceConfig:
        figures = _kinds()[self.kind]
        watts, static = (
            figures[name]["value"] if getattr(self, name) is None else getattr(self, name)
            for name in ("watts", "static_watts")
        )
        if watts <= static:
            raise ValueError(
                f"{self.kind}: watts = {watts:g} leaves nothing for work beside static_watts = "
                f"{static:g}; watts must be more"
            )
        return self


@functools.cache
def _kinds() -> dict[str, dict[str, dict[str, Any]]]:
    text = (resources.files("screc") / "data" / "devices.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def all_devices() -> list[DeviceSpec]:
    """Every kind with its figures as shipped, in the file's order."""
    return [resolve_device(DeviceConfig(kind=kind)) for kind in _kinds()]


def resolve_device(device: DeviceConfig) -> DeviceSpec:
    """Figures of a device: those that the configuration gives before those of its kind."""
    figures = _kinds()[device.kind]
    values: dict[str, Any] = {"ssd_gib": None, "ssd_kiops": None, "p2p_gbs": None}
    values |= {name: figure["value"] for name, figure in figures.items()}
    for name in RESOURCE_NAMES:
        values[f"slr_{name}"] = tuple(values.get(f"slr_{name}", [values[name]]))
    sources = {name: figure["source"] for name, figure in figures.items()}
    given = device.model_dump(exclude={"kind", "count"}, exclude_none=True)
    values |= given
    sources |= dict.fromkeys(given, OVERRIDE)
    return DeviceSpec(kind=device.kind, sources=sources, **values)
