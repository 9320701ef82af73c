from screc_hw.tt.params import TtParams

BASE = {
    "slice_lanes": 16, "fraction": 4, "chain": 8, "max_rank": 16, "max_q2": 4, "max_q3": 4, "max_dim": 64,
    "max_tables": 8, "core1_words": 400, "core2_words": 3520, "core3_words": 500, "row_bits": 24,
}
SMALLEST = {
    "slice_lanes": 4, "fraction": 0, "chain": 4, "max_rank": 4, "max_q2": 1, "max_q3": 4, "max_dim": 16,
    "max_tables": 2, "core1_words": 64, "core2_words": 64, "core3_words": 64, "row_bits": 10, "requantisers": 4, "slots": 4,
}
def of(base, **c): return TtParams(**{**base, **c})
POINTS = {
    "smallest": of(SMALLEST),
    "base": of(BASE),
    "wide": of(BASE, slice_lanes=64, requantisers=16),
    "chain 4, 2 lanes": of(BASE, chain=4, lanes=2, requantisers=4, core2_words=1024),
    "chain 16": of(BASE, chain=16, requantisers=16, core1_words=200, core2_words=880, core3_words=250),
    "pins": of(BASE, chain=4, pinned_words=1000, core2_words=600),
    "many pins": of(BASE, chain=4, pinned_words=8000, core2_words=600),
    "rank 32, dim 128": of(BASE, max_rank=32, max_q3=8, max_dim=128, requantisers=4, core2_words=14080),
    "fine": of(SMALLEST, fraction=8, slice_lanes=32, max_dim=32, max_q2=4, max_q3=8, max_rank=8),
    "tables": of(SMALLEST, max_tables=128, row_bits=29, max_rank=16, slots=32),
    "3 lanes": of(SMALLEST, lanes=3, slice_lanes=8, max_dim=32, max_q2=2, max_q3=8, max_rank=12, requantisers=8),
    "long rows": of(BASE, chain=4, max_q2=8, max_dim=256, max_q3=16, slots=64, requantisers=4, core2_words=600),
    "ranks of 60": of(BASE, chain=4, max_rank=60, core2_words=2048),
}
