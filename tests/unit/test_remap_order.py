"""Row order: against a dictionary, on disk, and damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.bench_encode import bench_encode
from screc.errors import ConfigError
from screc.remap import BLOCK_BITS, HEADER_BYTES, PAGE_BYTES, TableRemap


def reference(rows, hot):
    """Rank of every id, one by one."""
    ranks = {int(identity): rank for rank, identity in enumerate(hot)}
    for identity in range(rows):
        ranks.setdefault(identity, len(ranks))
    return [ranks[identity] for identity in range(rows)]


def check(remap, rows, hot):
    expected = reference(rows, hot)
    ids = np.arange(rows)
    ranks = remap.ranks(ids)
    assert ranks.dtype == np.uint32
    assert ranks.tolist() == expected
    assert remap.ids(ranks).tolist() == ids.tolist()


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 3 * BLOCK_BITS + 5))
    hot = draw(st.lists(st.integers(0, rows - 1), unique=True, max_size=rows))
    return rows, hot


@settings(max_examples=60, deadline=None)
@given(tables())
def test_ranks_equal_a_dictionary_and_ids_are_their_inverse(table):
    rows, hot = table
    check(TableRemap.build(rows, np.array(hot, np.int64)), rows, hot)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 255, 256, 257, 32768, 32769])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_boundaries_survive_a_file(tmp_path, rows, share):
    hot = np.random.default_rng(rows).permutation(rows)[: round(rows * share)]
    TableRemap.build(rows, hot).save(tmp_path / "order.bin")
    remap = TableRemap.load(tmp_path / "order.bin")
    assert (remap.rows, remap.hot) == (rows, len(hot))
    check(remap, rows, hot)


def test_many_lookups_at_once_and_none():
    rows = 1_000_000
    rng = np.random.default_rng(1)
    hot = rng.permutation(rows)[:50_000]
    remap = TableRemap.build(rows, hot)
    ids = rng.integers(0, rows, 100_003)
    expected = np.empty(rows, np.int64)
    expected[hot] = np.arange(len(hot))
    others = np.setdiff1d(np.arange(rows), hot)
    expected[others] = len(hot) + np.arange(len(others))
    assert (remap.ranks(ids) == expected[ids]).all()
    assert remap.ranks(np.empty(0, np.int64)).tolist() == []
    assert remap.ids(np.empty(0, np.int64)).tolist() == []


def test_a_billion_rows_take_little_disk(tmp_path):
    rows = 1_000_000_000
    hot = np.array([rows - 1, 5, 123_456_789])
    TableRemap.build(rows, hot).save(tmp_path / "order.bin")
    stat = (tmp_path / "order.bin").stat()
    assert stat.st_size > rows // 8
    assert stat.st_blocks * 512 < 20_000_000  # the directory alone
    remap = TableRemap.load(tmp_path / "order.bin")
    assert remap.ranks(np.array([rows - 1, 5, 0, 6, rows - 2])).tolist() == [0, 1, 3, 8, rows - 1]
    assert remap.ids(np.array([0, 1, 3, 8, rows - 1])).tolist() == [rows - 1, 5, 0, 6, rows - 2]


@pytest.mark.parametrize(
    ("rows", "hot", "message"),
    [
        (0, [], r"^rows must lie in 1..4294967295, not 0$"),
        (1 << 32, [], r"^rows must lie in 1..4294967295, not 4294967296$"),
        (10, [3, 10], r"^hot ids must lie in \[0, 10\), not 10$"),
        (10, [-1], r"^hot ids must lie in \[0, 10\), not -1$"),
        (10, [3, 4, 3], r"^hot ids must be distinct, 3 occurs twice$"),
    ],
)
def test_build_refuses(rows, hot, message):
    with pytest.raises(ValueError, match=message):
        TableRemap.build(rows, np.array(hot, np.int64))


@pytest.mark.parametrize("wrong", [-1, 10])
def test_lookups_out_of_range_are_refused(wrong):
    remap = TableRemap.build(10, np.array([3]))
    with pytest.raises(ValueError, match=rf"^ids must lie in \[0, 10\), not {wrong}$"):
        remap.ranks(np.array([1, wrong]))
    with pytest.raises(ValueError, match=rf"^ranks must lie in \[0, 10\), not {wrong}$"):
        remap.ids(np.array([1, wrong]))


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"x" + data[1:], "is no row order: must start with b'SCRECMAP', not"),
        (lambda data: data[:-1], "is damaged: 5000 rows of which 100 are hot take"),
        (lambda data: flip(data, HEADER_BYTES + 8), "its checksum is wrong"),
        (lambda data: flip(data, HEADER_BYTES + PAGE_BYTES + 4), "its checksum is wrong"),
        (lambda data: flip(data, HEADER_BYTES + 2 * PAGE_BYTES + 100), "its checksum is wrong"),
        (lambda data: data.replace(b'"version": 1', b'"version": 9'), "has version 9, this tool"),
        (lambda data: data.replace(b'{"version"', b'["version"'), "its header is no JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    path = tmp_path / "order.bin"
    TableRemap.build(5000, np.arange(0, 5000, 50)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError) as error:
        TableRemap.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_bench_reports_what_it_measured():
    (result,) = bench_encode((100_000,), hot_rows=1000, lookups=50_000)
    assert set(result) == {
        "rows",
        "hot_rows",
        "lookups",
        "lookups_per_s_per_core",
        "bytes_per_row",
        "file_bytes",
        "kind",
    }
    assert result["lookups_per_s_per_core"] > 100_000
    assert result["bytes_per_row"] >= 1.125 / 8
    assert result["bytes_per_row"] < 0.4
    assert result["kind"] == "measured"
