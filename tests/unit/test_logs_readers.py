"""Log readers: values, streaming, and what every malformed line or array is told."""

import dataclasses
import gzip
import re

import numpy as np
import polars as pl
import pytest

from screc.config import LogConfig
from screc.errors import ConfigError
from screc.logs import lines, log_files, open_log
from screc.logs.synthetic import scatter, zipf_ranks
from screc_hw.model import FeatureShape, ModelShape, TableShape
from tests.conftest import shared_data


def shape(rows=(100, 1000), dense=0, features=None):
    """Model with tables t0, t1, ... and features reading the tables of the given numbers."""
    features = list(range(len(rows))) if features is None else features
    return ModelShape(
        name="m",
        dense=dense,
        bottom=(4,) if dense else (),
        top=(1,),
        interaction="concat",
        tables=tuple(TableShape(name=f"t{i}", rows=n, dim=4) for i, n in enumerate(rows)),
        features=tuple(FeatureShape(name=f"f{i}", table=t) for i, t in enumerate(features)),
    )


def opened(model, **log):
    return open_log(LogConfig(**log), model, seed=1)


def everything(log):
    """All samples as plain lists: (dense, bags per sample and feature, labels)."""
    batch = log.take(log.count())
    bags = [
        [b.ids[b.offsets[i] : b.offsets[i + 1]].tolist() for b in batch.bags]
        for i in range(len(batch))
    ]
    return batch.dense.tolist(), bags, None if batch.labels is None else batch.labels.tolist()


def refused(model, **log):
    """Text of the error of reading a log to its end."""
    with pytest.raises(ConfigError) as error:
        everything(opened(model, **log))
    return str(error.value)


# --- Criteo --------------------------------------------------------------------------------------
CRITEO = "1\t3\t\t0000000f\tffffffff\n0\t-2\t7\t\t12\n1\t0\t99\t7\tAb\n"


@pytest.fixture
def criteo(tmp_path):
    path = tmp_path / "day.tsv"
    path.write_text(CRITEO)
    return path


def test_criteo_values(criteo):
    dense, bags, labels = everything(opened(shape(dense=2), path=str(criteo)))
    np.testing.assert_allclose(dense, np.log1p([[3, 0], [0, 7], [0, 99]]), rtol=1e-6)
    # eight characters are a hexadecimal hash, fewer are decimal unless there is a letter
    assert bags == [[[15], [0xFFFFFFFF % 1000]], [[0], [12]], [[7], [0xAB]]]
    assert labels == [1, 0, 1]


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
@pytest.mark.parametrize("compress", [False, True])
def test_criteo_line_endings_and_gzip(tmp_path, criteo, ending, compress):
    text = CRITEO.rstrip("\n").replace("\n", ending or "\n") + ending
    path = tmp_path / "other.tsv.gz"
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
    expected = everything(opened(shape(dense=2), path=str(criteo)))
    assert everything(opened(shape(dense=2), path=str(path))) == expected


def test_several_files_are_one_log_in_name_order(tmp_path):
    for name, value in (("b", 2), ("a", 1), ("c", 3)):
        (tmp_path / f"day_{name}.tsv").write_text(f"0\t{value}\n1\t{value + 10}\n")
    log = opened(shape((100,)), path=str(tmp_path / "day_*.tsv"))
    assert [bag[0][0] for bag in everything(log)[1]] == [1, 11, 2, 12, 3, 13]
    assert [path.name for path in log_files(LogConfig(path=str(tmp_path / "*.tsv")))] == [
        "day_a.tsv",
        "day_b.tsv",
        "day_c.tsv",
    ]


@pytest.mark.parametrize(
    ("line", "old", "new", "expected"),
    [
        (3, "7\tAb", "7\tAg", "line 3: C2: 'Ag' is not a decimal or hexadecimal number below"),
        (2, "\t12\n", "\t-12\n", "line 2: C2: '-12' is not a decimal or hexadecimal number"),
        (1, "ffffffff", "fffffffg", "line 1: C2: 'fffffffg' is not a decimal or hexadecimal"),
        (1, "ffffffff", "f" * 17, f"line 1: C2: '{'f' * 17}' is not a decimal or hexadecimal"),
        (2, "-2", "-", "line 2: I1: '-' is not a whole number"),
        (2, "-2", "2.5", "line 2: I1: '2.5' is not a whole number"),
        (3, "1\t0\t99", "2\t0\t99", "line 3: label: '2' is not a label, 0 or 1"),
        (3, "1\t0\t99", "\t0\t99", "line 3: label: '' is not a label, 0 or 1"),
        (
            3,
            "\t7\tAb",
            "\t7",
            "line 3: must have 5 tab-separated columns (label, I1, ..., C2), not",
        ),
        (2, "0\t-2", "0\t0\t-2", "line 2: must have 5 tab-separated columns (label, I1, ..., C2)"),
        (1, "0000000f", "é", "line 1: C1: 'é' is not a decimal or hexadecimal number"),
    ],
)
def test_malformed_criteo_names_line_column_and_text(criteo, line, old, new, expected):
    assert old in CRITEO
    criteo.write_text(CRITEO.replace(old, new, 1))
    text = refused(shape(dense=2), path=str(criteo))
    assert text.startswith(f"{criteo}: {expected}")


def test_line_numbers_go_on_over_blocks(criteo, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    criteo.write_text("0\t1\t2\t3\t4\n" * 100 + "0\t1\t2\t3\tx\n")
    assert "line 101: C2: 'x'" in refused(shape(dense=2), path=str(criteo))


def test_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "day.tsv.gz"
    rng = np.random.default_rng(0)
    data = gzip.compress("".join(f"0\t{n}\n" for n in rng.integers(0, 1 << 30, 9000)).encode())
    path.write_bytes(data[: len(data) // 2])
    assert re.match(
        rf"{path}: is damaged gzip, readable up to line \d+", refused(shape((100,)), path=str(path))
    )


@pytest.mark.parametrize("ids", ["modulo", "dictionary"])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_batches_and_parts_are_the_same_whatever_the_size(tmp_path, monkeypatch, ids, size):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 256)
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 90, (500, 2))
    path = tmp_path / "day.tsv"
    path.write_text("".join(f"0\t{a:x}\t{b:x}\n" for a, b in rows))
    log = opened(shape((97, 97)), path=str(path), ids=ids, profile=0.3, holdout=0.4)
    whole = everything(log)[1]
    sizes, found = [], []
    for batch in log.batches(size):
        sizes.append(len(batch))
        found += [[b.ids[b.offsets[i]] for b in batch.bags] for i in range(len(batch))]
    assert found == [[bag[0] for bag in bags] for bags in whole]
    assert sizes == [size] * (500 // size) + ([500 % size] if 500 % size else [])
    assert everything(log.profile())[1] == whole[:150]
    assert everything(log.holdout())[1] == whole[300:]
    again = opened(shape((97, 97)), path=str(path), ids=ids, profile=0.3, holdout=0.4)
    assert everything(again.holdout())[1] == whole[300:]
    assert again.samples == 500
    taken = again.take(3, skip=10)
    assert taken.bags[1].ids.tolist() == [bags[1][0] for bags in whole[10:13]]


def test_samples_limits_what_is_read(criteo):
    log = opened(shape(dense=2), path=str(criteo), samples=2)
    assert log.samples is None
    assert log.count() == 2
    assert log.samples == 2
    assert len(log.take(10)) == 2


def test_too_short_a_log_is_refused(criteo):
    criteo.write_text("1\t3\t\t0000000f\tffffffff\n")
    log = opened(shape(dense=2), path=str(criteo))
    with pytest.raises(ConfigError, match=r"day\.tsv: a log needs at least 2 samples, not 1"):
        log.profile()


@pytest.mark.parametrize("path", ["none.tsv", "day_*.tsv"])
def test_missing_files_are_named(tmp_path, path):
    assert refused(shape(), path=str(tmp_path / path)) == (
        f"{tmp_path / path}: log.path: no such file, and no file matches it"
    )


def test_fixed_columns_are_not_declared(criteo):
    table = {"table": "f0", "column": "x"}
    assert refused(shape(dense=2), path=str(criteo), table=[table]) == (
        "log.table: criteo has fixed columns: leave table out"
    )


# --- ids -----------------------------------------------------------------------------------------
def test_dictionary_numbers_by_sample_then_feature_over_a_shared_table(tmp_path):
    path = tmp_path / "day.tsv"
    path.write_text("0\t7\t9\n0\t9\t5\n0\t\t7\n")
    model = shape((10,), features=[0, 0])
    bags = everything(opened(model, path=str(path), ids="dictionary"))[1]
    assert bags == [[[0], [1]], [[1], [2]], [[0], [0]]]


def test_dictionary_past_the_rows_says_so(tmp_path):
    path = tmp_path / "day.tsv"
    path.write_text("0\t5\n1\t6\n0\t5\n0\t4\n")
    assert refused(shape((2,)), path=str(path), ids="dictionary") == (
        "log.ids: \"dictionary\": table 't0' has 2 rows, but the log has more values: 4 is number "
        '3; give it more rows, or use ids = "modulo"'
    )


def test_ids_of_a_trained_model(tmp_path):
    path, ids = tmp_path / "day.tsv", tmp_path / "ids.parquet"
    path.write_text("0\t0000000a\n1\tbb\n0\t\n")
    frame = pl.DataFrame({"feature": ["f0", "f0"], "value": ["0000000a", "ff"], "id": [3, 1]})
    frame.write_parquet(ids)
    bags = everything(opened(shape((10,)), path=str(path), ids={"file": ids}))[1]
    assert bags == [[[3]], [[0]], [[0]]]
    assert log_files(LogConfig(path=str(path), ids={"file": ids})) == [path, ids]
    frame.with_columns(id=pl.lit(10)).write_parquet(ids)
    assert refused(shape((10,)), path=str(path), ids={"file": ids}) == (
        f"{ids}: f0: id 10 of value '0000000a' must lie in [0, 10)"
    )
    frame.rename({"value": "text"}).write_parquet(ids)
    assert refused(shape((10,)), path=str(path), ids={"file": ids}) == (
        f"{ids}: column 'value' is missing; needs feature, value, id, has feature, text, id"
    )


# --- CSV -----------------------------------------------------------------------------------------
CSV = "when;user;age;item;stars\n1;u7;30;12;4.5\n2;u3;;1f;3\n3;u7;-1.5;;4\n"
TABLES = [{"table": "f0", "column": "user"}, {"table": "t1", "column": "item"}]
CSV_LOG = {
    "format": "csv",
    "separator": ";",
    "table": TABLES,
    "dense": ["age"],
    "label": {"column": "stars", "at_least": 4},
}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(CSV)
    return path


def test_csv_values(table):
    model = shape(dense=1)
    dense, bags, labels = everything(opened(model, path=str(table), ids="dictionary", **CSV_LOG))
    assert dense == [[30], [0], [-1.5]]
    assert bags == [[[0], [0]], [[1], [1]], [[0], [0]]]
    assert labels == [1, 0, 1]


def test_csv_modulo_takes_decimal_or_hexadecimal(table):
    table.write_text(re.sub(r"u(\d)", r"\1", CSV))
    log = CSV_LOG | {"table": [{"table": "f0", "column": "user"}, TABLES[1]]}
    assert everything(opened(shape(dense=1), path=str(table), **log))[1] == [
        [[7], [12]],
        [[3], [0x1F]],
        [[7], [0]],
    ]
    log["table"][1] = {"table": "t1", "column": "item", "hex": True}
    assert everything(opened(shape(dense=1), path=str(table), **log))[1][0] == [[7], [0x12]]
    log["table"][1] = {"table": "t1", "column": "item", "hex": False}
    assert "line 3: item: '1f' is not a decimal" in refused(shape(dense=1), path=str(table), **log)


def test_csv_quotes(table):
    table.write_text(CSV.replace("u7", '"u;""7"'))
    bags = everything(opened(shape(dense=1), path=str(table), ids="dictionary", **CSV_LOG))[1]
    assert bags == [[[0], [0]], [[1], [1]], [[0], [0]]]
    table.write_text(CSV.replace("u7", '"u\n7"', 1))
    text = refused(shape(dense=1), path=str(table), ids="dictionary", **CSV_LOG)
    assert text.endswith("has a line break inside quotes; a sample must be one line")


def test_csv_header_may_start_with_a_byte_order_mark(table):
    table.write_text("\ufeff" + CSV.replace("when", "user", 1).replace(";user", ";when", 1))
    assert everything(opened(shape(dense=1), path=str(table), **CSV_LOG))[1][0][0] == [1]


@pytest.mark.parametrize(
    ("old", "new", "log", "expected"),
    [
        ("4.5", "x", {}, "line 2: stars: 'x' is not a number"),
        ("4.5", "", {}, "line 2: stars: '' is not a number"),
        ("30", "nan", {}, "line 2: age: 'nan' is not a number"),
        (
            "2;u3;;1f;3",
            "2;u3;;1f",
            {},
            "line 3: must have 5 ';'-separated columns (when, user, ...",
        ),
        ("", "", {"label": "stars"}, "line 2: stars: '4.5' is not a label, 0 or 1; label = {"),
        (
            "user",
            "usr",
            {},
            (
                "line 1: column 'user' is missing; the header has when, usr, age, item, stars "
                "(separator ';')"
            ),
        ),
        ("", "", {"separator": ","}, "line 1: column 'user' is missing; the header has when;user"),
        ("", "", {"ids": "modulo"}, "line 2: user: 'u7' is not a decimal or hexadecimal number"),
    ],
)
def test_malformed_csv_names_line_column_and_text(table, old, new, log, expected):
    table.write_text(CSV.replace(old, new, 1) if old else CSV)
    keys = {"ids": "dictionary"} | CSV_LOG | log
    assert refused(shape(dense=1), path=str(table), **keys).startswith(f"{table}: {expected}")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ({"dense": []}, "log.dense: the model has 1 dense inputs, 0 columns are named"),
        (
            {"table": TABLES[:1]},
            (
                'log.table: format = "csv" needs a [[log.table]] with table and column per '
                "feature; there is none for f1"
            ),
        ),
        (
            {"table": [{"table": "x", "column": "user"}]},
            "log.table.0.table: no feature 'x'; valid: f0, f1",
        ),
        ({"table": TABLES + TABLES}, "log.table.2.table: feature 'f0' is declared twice"),
        (
            {"table": [{"table": "f0"}]},
            "log.table.0.column: format = \"csv\" needs column of feature 'f0'",
        ),
    ],
)
def test_csv_declarations_are_checked(table, log, expected):
    assert refused(shape(dense=1), path=str(table), **(CSV_LOG | log)) == expected


# --- npz -----------------------------------------------------------------------------------------
def npz(tmp_path, **arrays):
    path = tmp_path / "log.npz"
    np.savez(path, **arrays)
    return str(path)


JAGGED = {
    "table": [
        {"table": "f0", "indices": "ids", "offsets": "starts"},
        {"table": "f1", "indices": "fixed"},
    ],
}
ARRAYS = {
    "ids": np.array([5, 105, 3, 7, 8], np.int32),
    "starts": np.array([0, 2, 2, 5]),
    "fixed": np.arange(6).reshape(3, 2),
}


def test_npz_jagged_and_fixed_bags(tmp_path):
    log = opened(shape(), path=npz(tmp_path, **ARRAYS), **JAGGED)
    dense, bags, labels = everything(log)
    assert dense == [[], [], []]
    assert bags == [[[5, 5], [0, 1]], [[], [2, 3]], [[3, 7, 8], [4, 5]]]
    assert labels is None
    assert everything(log.holdout())[1] == bags[2:]


def test_npz_offsets_may_be_starts_alone(tmp_path):
    arrays = ARRAYS | {"starts": np.array([0, 2, 2])}
    bags = everything(opened(shape(), path=npz(tmp_path, **arrays), **JAGGED))[1]
    assert [bag[0] for bag in bags] == [[5, 5], [], [3, 7, 8]]


def test_npz_dense_and_labels_by_name(tmp_path):
    arrays = ARRAYS | {"x": np.ones((3, 2)), "z": np.array([7, 8, 9]), "y": np.array([1, 5, 3])}
    log = JAGGED | {"dense": ["x", "z"], "label": {"column": "y", "at_least": 3}}
    dense, _, labels = everything(opened(shape(dense=3), path=npz(tmp_path, **arrays), **log))
    assert dense == [[1, 1, 7], [1, 1, 8], [1, 1, 9]]
    assert labels == [0, 1, 1]


def test_npz_of_dlrm(tmp_path):
    path = npz(
        tmp_path,
        X_int=np.array([[3, -1], [0, 7]]),
        X_cat=np.array([[5, 6], [105, 8]]),
        y=np.array([1, 0]),
    )
    dense, bags, labels = everything(opened(shape(dense=2), path=path))
    np.testing.assert_allclose(dense, np.log1p([[3, 0], [0, 7]]), rtol=1e-6)
    assert bags == [[[5], [6]], [[5], [8]]]
    assert labels == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "log", "expected"),
    [
        ({"starts": np.array([0, 3, 2, 5])}, {}, "array 'starts' must not fall and end in 5, the"),
        (
            {"starts": np.array([1, 2, 2, 5])},
            {},
            "array 'starts' must start with 0, not start with",
        ),
        ({"starts": np.array([0, 2, 2, 6])}, {}, "array 'starts' must not fall and end in 5, the"),
        (
            {"starts": np.array([0, 2, 5])},
            {},
            "array 'fixed' has 3 samples, the first feature has 2",
        ),
        ({"ids": np.array([5, -1, 3, 7, 8])}, {}, "array 'ids' has -1 at 1: an id is 0 or more"),
        (
            {"ids": np.ones(5)},
            {},
            "array 'ids' must hold whole numbers and be 1-D or 2-D, not float",
        ),
        ({}, {"label": "y"}, "array 'y' is missing; has ids, starts, fixed"),
        ({"y": np.array([0, 2, 1])}, {"label": "y"}, "array 'y': 2 at 1 is not a label, 0 or 1"),
        (
            {"x": np.ones(3)},
            {"dense": ["x"]},
            "log.dense: the model has 0 dense inputs, the arrays",
        ),
        ({}, {"table": []}, "array 'X_cat' is missing; has ids, starts, fixed"),
    ],
)
def test_malformed_npz_names_the_array(tmp_path, arrays, log, expected):
    path = npz(tmp_path, **(ARRAYS | arrays))
    assert refused(shape(), path=path, **(JAGGED | log)).startswith(f"{path}: {expected}")


def test_npz_never_unpickles(tmp_path):
    path = npz(tmp_path, **(ARRAYS | {"ids": np.array([{}, 1], object)}))
    text = refused(shape(), path=path, **JAGGED)
    assert "array 'ids' cannot be read: Object arrays cannot be loaded" in text
    (tmp_path / "log.npz").write_bytes(b"no zip")
    assert f"{path}: must be an .npz archive" in refused(shape(), path=path, **JAGGED)


# --- parquet -------------------------------------------------------------------------------------
PARQUET = {
    "table": [{"table": "f0", "column": "a"}, {"table": "f1", "column": "b"}],
    "dense": ["x"],
    "label": "y",
}


def parquet(tmp_path, **columns):
    path = tmp_path / "log.parquet"
    frame = {
        "a": [5, None, 105],
        "b": [["1f", "12"], [], None],
        "x": [1.5, None, -2.0],
        "y": [1, 0, 1],
    }
    pl.DataFrame(frame | columns).write_parquet(path)
    return str(path)


def test_parquet_scalars_and_lists(tmp_path):
    log = opened(shape(dense=1), path=parquet(tmp_path), **PARQUET)
    assert everything(log) == (
        [[1.5], [0], [-2]],
        [[[5], [31, 12]], [[0], []], [[5], []]],
        [1, 0, 1],
    )
    assert everything(log.holdout())[1] == [[[5], []]]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": [1, 2, -3]}, "row 2: a: -3 is no id: 0 or more"),
        ({"a": [1.0, 2, 3]}, "row 0: a: must hold whole numbers or text, or lists of them, not Fl"),
        ({"b": [["1"], [], ["2", "u"]]}, "row 2: b: 'u' is no decimal or hexadecimal number below"),
        ({"x": [0.0, float("inf"), 1]}, "row 1: x: inf is not a number"),
        ({"x": ["1", "2", "3"]}, "row 0: x: must hold numbers, not String"),
        ({"y": [1, None, 0]}, "row 1: y: None is not a number"),
        ({"y": [1, 0, 3]}, "row 2: y: 3 is not a label, 0 or 1"),
    ],
)
def test_malformed_parquet_names_row_and_column(tmp_path, columns, expected):
    path = parquet(tmp_path, **columns)
    assert refused(shape(dense=1), path=path, **PARQUET).startswith(f"{path}: {expected}")


def test_parquet_of_other_columns_is_refused(tmp_path):
    path = parquet(tmp_path)
    log = PARQUET | {"label": "z"}
    assert refused(shape(dense=1), path=path, **log) == (
        f"{path}: column 'z' is missing; the file has a, b, x, y"
    )


# --- synthetic -----------------------------------------------------------------------------------
def test_synthetic_is_seeded_and_may_be_skipped_into():
    model = shape((1000, 50), dense=3)
    log = open_log(LogConfig(samples=10_000), model, seed=4)
    whole = everything(log)
    assert everything(open_log(LogConfig(samples=10_000), model, seed=4)) == whole
    assert everything(open_log(LogConfig(samples=10_000), model, seed=5)) != whole
    assert everything(log.holdout())[1] == whole[1][5000:]
    assert whole[2] is None
    assert np.mean(np.square(whole[0])) == pytest.approx(9, rel=0.1)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 1.05, 2.0])
def test_zipf_has_its_exponent(exponent):
    ranks = zipf_ranks(np.random.default_rng(0), 400_000, 1000, exponent)
    counts = np.bincount(ranks, minlength=1000) / len(ranks)
    weights = np.arange(1, 1001.0) ** -exponent
    weights /= weights.sum()
    np.testing.assert_allclose(np.cumsum(counts), np.cumsum(weights), atol=0.004)


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 1000, 4_294_967_295])
def test_scatter_is_a_bijection(rows):
    ranks = np.unique(np.linspace(0, rows - 1, 1000).astype(np.int64))
    ids = scatter(ranks, rows)
    assert len(np.unique(ids)) == len(ranks)
    assert ids.min() >= 0
    assert ids.max() < rows


@pytest.mark.parametrize("pooling", [0.25, 1, 2.5, 40])
def test_synthetic_bags_have_the_mean_length(pooling):
    feature = FeatureShape(name="f0", table=0, pooling=pooling)
    model = dataclasses.replace(shape((100,)), features=(feature,))
    bags = open_log(LogConfig(samples=8192), model, seed=0).take(8192).bags[0]
    assert bags.lengths.mean() == pytest.approx(pooling, rel=0.05)


# --- real data -----------------------------------------------------------------------------------
KAGGLE_ROWS = (1460, 583, 10_131_227, 2_202_608)


@pytest.mark.data
def test_real_criteo_equals_a_plain_parser():
    path = shared_data("criteo_raw8k") / "criteo_first8000_shuffled.tsv.gz"
    rows = [*KAGGLE_ROWS, *([1000] * 22)]
    batch = opened(shape(tuple(rows), dense=13), path=str(path)).take(8000)
    with gzip.open(path, "rt") as stream:
        table = [line.rstrip("\n").split("\t") for line in stream]
    assert batch.labels.tolist() == [float(row[0]) for row in table]
    dense = [[np.log1p(max(int(x or 0), 0)) for x in row[1:14]] for row in table]
    np.testing.assert_allclose(batch.dense, dense, rtol=1e-6)
    for feature, bags in enumerate(batch.bags):
        expected = [int(row[14 + feature] or "0", 16) % rows[feature] for row in table]
        assert bags.ids.tolist() == expected


@pytest.mark.data
def test_real_criteo_as_csv():
    path = shared_data("criteo_raw8k") / "train.tiny.csv.gz"
    features = [f"C{i}" for i in range(1, 27)]
    log = opened(
        shape((1000,) * 26, dense=13),
        path=str(path),
        table=[{"table": f"f{i}", "column": c, "hex": True} for i, c in enumerate(features)],
        dense=[f"I{i}" for i in range(1, 14)],
        label="Label",
        log_dense=True,
    )
    assert log.count() == 1999
    batch = log.take(1999)
    frame = pl.read_csv(gzip.open(path).read(), infer_schema=False)
    assert batch.bags[25].ids.tolist() == [int(x or "0", 16) % 1000 for x in frame["C26"].to_list()]
    assert batch.dense[:, 0].tolist() == pytest.approx(
        [np.log1p(max(int(x or 0), 0)) for x in frame["I1"].to_list()], rel=1e-6
    )


@pytest.mark.data
def test_real_gowalla_bags():
    path = shared_data("gowalla_bags") / "gowalla_bags.npz"
    tables = [{"table": "f0", "indices": "train_indices", "offsets": "train_offsets"}]
    log = opened(shape((40_981,)), path=str(path), table=tables)
    bags = log.take(log.count()).bags[0]
    assert len(bags.lengths) == 29_858
    assert len(bags.ids) == 810_128
    assert bags.lengths.max() == 811


@pytest.mark.data
def test_real_movielens_ratings():
    path = shared_data("movielens_small") / "ratings.csv"
    tables = [{"table": "f0", "column": "userId"}, {"table": "f1", "column": "movieId"}]
    log = opened(
        shape((610, 9724)),
        path=str(path),
        ids="dictionary",
        table=tables,
        label={"column": "rating", "at_least": 4},
    )
    batch = log.take(log.count())
    assert len(batch) == 100_836
    assert batch.bags[0].ids.max() == 609
    assert batch.bags[1].ids.max() == 9723
    assert 0.4 < batch.labels.mean() < 0.6
