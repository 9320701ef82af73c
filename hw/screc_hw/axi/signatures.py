"""AXI4 and AXI4-Lite signatures, as Vitis RTL kernels use them.

INCR bursts of full-width beats only (``AxSIZE`` = bus width), never across a 4 KiB boundary. The
top level names ports ``m_axi_<name>_ARADDR`` and so on; see ``emit``.
"""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

BOUNDARY_BYTES = 4096
"""A burst stays within one such block. Source: AMBA AXI4 specification, A3.4.1."""

INCR = 0b01
"""AxBURST of an incrementing burst."""

SLVERR = 0b10
"""RRESP of a failed access. Source: AMBA AXI4 specification, A3.4.4."""

READ_ADDRESS = ("araddr", "arid", "arlen", "arsize", "arburst")
"""What a read request brings beside ``arvalid``."""

READ_BEAT = ("rdata", "rid", "rresp", "rlast")
"""What a beat brings beside ``rvalid``."""


class ReadSignature(wiring.Signature):
    """AR and R channels of an AXI4 master; ``id`` tells streams of requests apart.

    Parameters
    ----------
    data_bits, address_bits, id_bits
        Widths of data, address and ID.
    """

    def __init__(self, *, data_bits: int, address_bits: int = 64, id_bits: int = 1) -> None:
        self.data_bits = data_bits
        super().__init__(
            {
                "arvalid": Out(1),
                "arready": In(1),
                "araddr": Out(address_bits),
                "arid": Out(id_bits),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(2),
                "rvalid": In(1),
                "rready": Out(1),
                "rdata": In(data_bits),
                "rid": In(id_bits),
                "rresp": In(2),
                "rlast": In(1),
            }
        )


class WriteSignature(wiring.Signature):
    """AW, W and B channels of an AXI4 master, single ID.

    Parameters
    ----------
    data_bits, address_bits, id_bits
        Widths of data, address and ID.
    """

    def __init__(self, *, data_bits: int, address_bits: int = 64, id_bits: int = 1) -> None:
        self.data_bits = data_bits
        super().__init__(
            {
                "awvalid": Out(1),
                "awready": In(1),
                "awaddr": Out(address_bits),
                "awid": Out(id_bits),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(2),
                "wvalid": Out(1),
                "wready": In(1),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wlast": Out(1),
                "bvalid": In(1),
                "bready": Out(1),
                "bid": In(id_bits),
                "bresp": In(2),
            }
        )


class LiteSignature(wiring.Signature):
    """AXI4-Lite, 32-bit data; members are the master's directions (flip for a slave).

    Parameters
    ----------
    address_bits
        Width of the address.
    """

    def __init__(self, *, address_bits: int = 12) -> None:
        super().__init__(
            {
                "awvalid": Out(1),
                "awready": In(1),
                "awaddr": Out(address_bits),
                "wvalid": Out(1),
                "wready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "bvalid": In(1),
                "bready": Out(1),
                "bresp": In(2),
                "arvalid": Out(1),
                "arready": In(1),
                "araddr": Out(address_bits),
                "rvalid": In(1),
                "rready": Out(1),
                "rdata": In(32),
                "rresp": In(2),
            }
        )
