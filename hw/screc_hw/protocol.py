"""Wire formats between host and device: the request queue, its blocks, and what LOAD writes.

Host encoder, loader hardware and test bench all read their field positions here. Every word is
little-endian. The documentation with pictures is docs/interfaces.md.

Request queue
-------------
A contiguous run of *blocks* in the memory of the host port, each a whole number of 64-byte beats.
Beat 0 of a block is its header, sixteen 32-bit words (:class:`Header`).

RUN block, after the header::

    section table   ceil(memory_cores / 8) beats, 8 bytes per memory core:
                    {u32 offset in beats of the core's port, from the core's base; u32 lookups}
    per sub-batch   (rows samples each, the last one padded with empty bags and zeros)
      bag headers   rows × features words of 32 bits, sample-major, padded to a beat
      dense         dense × rows bytes: for every input k, one byte per row; padded to a beat

LOAD block, after the header: ``words`` 64-bit words for :class:`LoadTarget`, padded to a beat.

Lookup section
--------------
In the memory that the memory core's own port reads: 64-bit records (:class:`Lookup`) ordered by
sub-batch, sample and feature, padded to a beat of that port. ``last`` marks the last record of a
bag within this section.

Results
-------
At ``result_offset`` beats from the result pointer, one status beat (:class:`Status`), and for RUN
one 64-bit record per row of every sub-batch (:class:`Result`), padded rows included.
The status beat is written after everything else of its block.
"""

from __future__ import annotations

import enum

BEAT_BYTES = 64
"""Beat of the host port (512 bits); the unit of block lengths and result offsets."""

MAGIC = 0x51524353
"""Header word 0, "SCRQ" in memory."""

STATUS_MAGIC = 0x53524353
"""Status word 0, "SCRS" in memory."""

VERSION = 1

HEADER_WORDS = 16


class Opcode(enum.IntEnum):
    """What a block asks for."""

    RUN = 1
    LOAD = 2


class Header(enum.IntEnum):
    """Index of each 32-bit word of a block header."""

    MAGIC = 0
    VERSION_OPCODE = 1  # version | opcode << 16
    BLOCK_BYTES = 2  # whole block, header included, a multiple of 64
    BLOCK_ID = 3  # echoed in the status beat
    RESULT_OFFSET = 4  # beats from the result pointer
    SAMPLES = 5  # RUN: 1..65535
    FEATURES = 6  # RUN
    DENSE = 7  # RUN: dense inputs per sample, 0 without a bottom MLP
    SECTIONS = 8  # RUN: entries of the section table = memory cores
    LOAD_TARGET = 9  # LOAD: LoadTarget | core << 8 (0xff: every core of that kind)
    LOAD_ADDRESS = 10  # LOAD: first 64-bit word address
    LOAD_WORDS = 11  # LOAD: count of 64-bit words
    LOAD_CRC = 12  # LOAD: CRC-32 (zlib's) of the data words, padding excluded
    RESERVED_13 = 13
    RESERVED_14 = 14
    CHECKSUM = 15  # XOR of words 0..14, inverted


class LoadTarget(enum.IntEnum):
    """Destination of a LOAD block; addresses are in 64-bit words within it."""

    GATHER_FEATURES = 0  # memory core: FEATURE_WORDS words per feature
    GATHER_STAGING = 1  # memory core: word 0 ring's byte offset, 1 its beats, 2 beats that rows and
    # ring may lie in: no row is read at or beyond it
    COMBINER_FEATURES = 2  # one word per feature
    PROGRAM = 3  # compute core: LAYER_WORDS words per operation
    WEIGHTS = 4  # compute core: columns/8 words per (k, tile of columns)
    REQUANTISE = 5  # compute core: one word per output channel or scalar entry
    SIGMOID = 6  # compute core: one word per table point
    GATHER_ROWS = 7  # memory core: its on-chip rows, port_bits / 64 words per beat
    TT_TABLES = 8  # TT reconstructor of a memory core: TT_TABLE_WORDS words per table
    TT_CORE1 = 9  # ... first, second and third TT cores, as tt.image lays them out
    TT_CORE2 = 10
    TT_CORE3 = 11
    TT_PIN = 12  # ... the word is a count: compute the pinned prefixes of tables 0 to count - 1
    COMPUTE_SHAPE = 13  # compute core: one word, COMPUTE_SHAPE_FIELDS
    WEIGHTS4 = 14  # ... WEIGHTS of 4 bits: a word holds the same word of two neighbouring positions
    WEIGHT_REGION = 15  # ... that streams its weights: one word, REGION_FIELDS


ALL_CORES = 0xFF

# --- bag header, 32 bits -------------------------------------------------------------------------
BAG_LENGTH_SHIFT, BAG_LENGTH_BITS = 0, 16
BAG_RECIPROCAL_SHIFT, BAG_RECIPROCAL_BITS = 16, 16  # r_L of the mean; 0 is allowed for sums

# --- lookup record, 64 bits ----------------------------------------------------------------------
LOOKUP_FIELDS: dict[str, tuple[int, int]] = {
    "rank": (0, 32),  # frequency rank, or the staging ring's beat when staged
    "feature": (32, 12),
    "sample": (44, 16),  # within the block
    "staged": (60, 1),
    "last": (61, 1),
    "reserved": (62, 2),
}
"""(lowest bit, width) of every field. A weighted record (later) is 128 bits: this word, then the
weight."""

MAX_FEATURES = 1 << LOOKUP_FIELDS["feature"][1]
MAX_SAMPLES = (1 << LOOKUP_FIELDS["sample"][1]) - 1

# --- memory core: feature descriptor, FEATURE_WORDS × 64 bits ------------------------------------
FEATURE_WORDS = 8
FEATURE_FIELDS: dict[str, tuple[int, int]] = {
    "base": (0, 48),  # byte offset of the core's first DRAM row of this table, beat-aligned
    "row_beats": (48, 6),  # beats per row, 1..32
    "sub_beat": (54, 1),  # rows smaller than a beat: stride_log2 holds
    "stride_log2": (55, 4),  # log2 of the stride in bytes when sub_beat
    "int4": (59, 1),  # two codes a byte, low nibble first; else a byte each
    "enable": (60, 1),  # 0: every lookup of this feature is out of range here
    "rowwise": (61, 1),  # unsigned codes, then fp16 scale and fp16 bias; else signed codes
    # Ranks [first, last) with rank mod 2**stripe_log2 == residue are this core's DRAM rows. The
    # on-chip and TT ranges say the same of their tiers; a range with first >= last is empty. A row
    # on chip or in DRAM is numbered among its core's; a TT row is rank - tt_first on every core.
    "first": (64, 32),
    "last": (96, 32),
    "stripe_log2": (128, 5),
    "residue": (136, 16),
    "slices": (152, 8),  # dim / lanes, 1..
    "onchip_base": (192, 32),  # beat of the core's on-chip memory
    "onchip_stripe_log2": (224, 5),
    "onchip_residue": (232, 16),
    "onchip_first": (256, 32),
    "onchip_last": (288, 32),
    "tt_stripe_log2": (320, 5),
    "tt_residue": (328, 16),
    "tt_table": (344, 12),  # number of the table's TT cores
    "tt_first": (384, 32),
    "tt_last": (416, 32),
    "reserved": (448, 64),
}
RANGE_FIELDS = ("first", "last", "stripe_log2", "residue")
"""A tier's range of ranks; the names of the on-chip and TT ranges begin with ``RANGE_PREFIX``."""

RANGE_PREFIX = {"dram": "", "onchip": "onchip_", "tt": "tt_"}

ROW_TAIL_BYTES = 4
"""fp16 scale, then fp16 bias, after the codes of a row-wise row."""

# --- combiner: feature descriptor, 64 bits -------------------------------------------------------
COMBINER_FIELDS: dict[str, tuple[int, int]] = {
    "m": (0, 16),
    "s": (16, 6),
    "mean": (22, 1),
    "slices": (24, 8),
    "vector_base": (32, 20),  # first word of this bag in a slot of its compute core
}


# --- TT reconstructor: table descriptor, TT_TABLE_WORDS × 64 bits --------------------------------
# K1, K2: steps of ``chain`` that r1, r2 take; T: values of j2 that one group computes; B = q3 / 4.
TT_TABLE_WORDS = 8
TT_TABLE_FIELDS: dict[str, tuple[int, int]] = {
    "rows": (0, 32),  # a row at or beyond it is counted as an error and is 0
    "p3": (32, 11),
    "p2": (43, 11),
    "m3": (64, 40),  # ceil(2**(row_bits + 10) / p3): row // p3 is exact, see tt.digits
    "m2": (128, 40),  # ceil(2**30 / p2)
    "base1": (192, 20),  # first word of each core
    "base2": (212, 24),
    "base3": (236, 20),
    "stride1": (256, 4),  # words per i1: K1
    "stride2": (260, 12),  # words per i2
    "stride3": (272, 8),  # words per i3: B · K2
    "entry_words": (280, 8),  # words of a finished first product: T · K2
    "pins": (288, 21),  # prefixes below it are pinned, from word pin_base of the store
    "steps1": (320, 12),  # array steps of the first product: T · columns / 4 · K1
    "steps2": (332, 12),  # of the second: T · B · K2
    "k2": (344, 4),  # K2
    "blocks": (348, 4),  # B
    "shift1": (352, 3),  # rounding shift of the first product
    "pairs": (355, 1),  # q1 <= 2 and even q2: groups 2 and 3 compute the upper half of j2
    "slices": (356, 8),  # dim / lanes of the memory core
    "chunk1": (364, 8),  # chunk of groups 1 and 3 beyond those of 0 and 2: q2 · B
    "chunk2": (372, 8),  # chunk of groups 2 and 3 beyond those of 0 and 1
    "m": (384, 16),  # requantisation of the second product
    "s": (400, 6),
    "chunks": (406, 8),  # dim / 4; chunks beyond are padding
    "pin_base": (416, 24),  # first word of the pinned prefixes in the store
    "row_blocks": (440, 8),  # T · B
}


# --- compute core: operation descriptor, LAYER_WORDS × 64 bits -----------------------------------
class Operation(enum.IntEnum):
    """What one step of the layer program does, on the rows of one sub-batch."""

    LINEAR = 0  # dst[n] = requantise(relu(sum_k src[k] * w[k, n] + bias[n]))
    DOT = 2  # dst[p] = requantise(v_i · v_j), i > j row-major, scalar entry


class Source(enum.IntEnum):
    """Where LINEAR reads."""

    DENSE = 0
    ACTIVATION = 1


class Destination(enum.IntEnum):
    """Where an operation writes."""

    ACTIVATION = 0
    FEATURE = 1  # component n of vector 0, the bottom output
    OUTPUT = 2  # the logit: integer, Q5.11, sigmoid


LAYER_WORDS = 4
LAYER_FIELDS: dict[str, tuple[int, int]] = {
    "operation": (0, 4),
    "source": (4, 4),
    "destination": (8, 4),
    "relu": (12, 1),
    "last": (13, 1),  # last operation of the program
    "wait_features": (14, 1),  # start only when the slot's bags are complete
    "independent": (15, 1),  # of the operation before: start without waiting for it
    "k": (16, 16),  # LINEAR: inputs; DOT: components per vector
    "n": (32, 16),  # LINEAR: outputs; DOT: vectors
    "weight_beats": (48, 16),  # where weights are streamed: beats of this operation's
    "source_base": (64, 24),  # word of the activation memory
    "urgent": (88, 1),  # before those of older sub-batches that are not: a DOT waits for it
    "destination_base": (96, 24),  # ... of output 0; DOT: component of pair 0
    "weight_base": (128, 32),  # step: `columns` weights; streamed: beat of the region
    "requantise_base": (160, 24),  # entry of channel 0, or the scalar entry
    "reserved": (192, 64),  # elementwise and residual sources to come
}

# --- compute core: what its inputs are, 64 bits -------------------------------------------------
COMPUTE_SHAPE_FIELDS: dict[str, tuple[int, int]] = {
    "dense": (0, 16),  # dense words of a sub-batch
    "bags": (16, 24),  # concat: word of the activation memory for word 0 of the vectors
    "dot": (40, 1),  # bags go to the interaction, else into the activation memory
}

# --- compute core: where streamed weights are, 64 bits -------------------------------------------
REGION_FIELDS: dict[str, tuple[int, int]] = {
    "offset": (0, 32),  # beats from the base of the memory core whose port is shared
    "beats": (32, 32),  # no beat is read outside of them
}

# --- compute core: requantise entry, 64 bits -----------------------------------------------------
REQUANTISE_FIELDS: dict[str, tuple[int, int]] = {
    "bias": (0, 32),  # signed
    "m": (32, 16),
    "s": (48, 6),
}

# --- result record, 64 bits ----------------------------------------------------------------------
RESULT_FIELDS: dict[str, tuple[int, int]] = {
    "logit": (0, 32),  # signed integer accumulator plus bias of the last layer
    "probability": (32, 16),  # UQ0.16
    "code": (48, 16),  # signed Q5.11
}


class Status(enum.IntEnum):
    """Index of each 32-bit word of a status beat."""

    MAGIC = 0
    BLOCK_ID = 1
    STATUS = 2  # StatusBit flags; 0 is success
    SAMPLES = 3
    CYCLES = 4  # clock cycles from the header's arrival to this beat
    RANGE_ERRORS = 5  # lookups out of range so far (all cores, wraps)
    CRC = 6  # LOAD: CRC-32 of the data as received


class StatusBit(enum.IntFlag):
    """Reasons why a block failed. A failed block ends the whole queue.

    A memory port that times out is answered for: the block ends with ``AXI_READ`` and ``TIMEOUT``,
    and the next run is right if the port has caught up by then (``RESET_NEEDED`` is 0 again). Where
    the run itself makes no progress, ``RESET_NEEDED`` stays until reset.

    With ``MAGIC`` or ``CHECKSUM``, or a header that could not be read, the result offset cannot be
    trusted: no status beat is written, and ``Register.STATUS`` alone tells.
    """

    MAGIC = 1 << 0
    CHECKSUM = 1 << 1
    HEADER = 1 << 2  # version, opcode, length or a count the design cannot serve
    CRC = 1 << 3
    AXI_READ = 1 << 4
    AXI_WRITE = 1 << 5
    TIMEOUT = 1 << 6  # a memory port, or the whole run, made no progress
    RESET_NEEDED = 1 << 7  # what did not answer still owes data


class Register(enum.IntEnum):
    """Byte offsets of the AXI4-Lite control registers (`ap_ctrl_chain` from 0x00)."""

    CTRL = 0x00
    GIER = 0x04
    IER = 0x08
    ISR = 0x0C
    QUEUE = 0x10  # 64-bit pointer
    RESULT = 0x1C  # 64-bit pointer
    QUEUE_BYTES = 0x28
    GMEM = 0x30  # 64-bit base pointer of memory core i at GMEM + 12 * i
    STATUS = 0x200  # sticky StatusBit flags
    CYCLES = 0x208  # 64-bit, cycles of the last start
    BLOCKS = 0x210  # blocks finished since the start
    LOAD_CRC = 0x214  # CRC-32 of the last LOAD block
    MEMORY_COUNTERS = 0x400  # per memory core, 32 bytes: range errors, lookups, beats, stalls
    COMPUTE_COUNTERS = 0x800  # per compute core, 16 bytes: busy, array-active, waiting cycles;
    # beats of streamed weights


GMEM_STRIDE = 12
MEMORY_COUNTER_STRIDE = 32
COMPUTE_COUNTER_STRIDE = 16


def pack(fields: dict[str, tuple[int, int]], **values: int) -> int:
    """Pack ``values`` by a field table; a signed value is stored in two's complement.

    Raises
    ------
    ValueError
        If a value does not fit its field; the message names the field, the value and the width.
    KeyError
        If a name is not a field.
    """
    word = 0
    for name, value in values.items():
        low, width = fields[name]
        if not -(1 << (width - 1)) <= value < 1 << width:
            raise ValueError(f"field {name!r} has {width} bits, which {value} does not fit")
        word |= (value & ((1 << width) - 1)) << low
    return word


def unpack(fields: dict[str, tuple[int, int]], word: int) -> dict[str, int]:
    """Split ``word`` into unsigned fields."""
    return {name: (word >> low) & ((1 << width) - 1) for name, (low, width) in fields.items()}
