"""AXI4: signatures, an arbiter of read masters, and the guard of a read port."""

from screc_hw.axi.signatures import (
    BOUNDARY_BYTES,
    INCR,
    READ_ADDRESS,
    READ_BEAT,
    SLVERR,
    LiteSignature,
    ReadSignature,
    WriteSignature,
)

__all__ = [
    "BOUNDARY_BYTES",
    "INCR",
    "READ_ADDRESS",
    "READ_BEAT",
    "SLVERR",
    "LiteSignature",
    "ReadSignature",
    "WriteSignature",
]
