"""Write a synthetic Parquet log of Zipf-distributed ids, and a model and configuration for it.

    python scripts/make_log.py build/scale --rows 20000000
    screc analyze build/scale/config.toml

The tables are those of the Criteo Kaggle set. Rows are drawn and written a chunk at a time; a
chunk's ids depend on the seed and its number alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from screc.logs.synthetic import scatter, zipf_ranks
from screc.models import preset_model

CHUNK_ROWS = 1 << 18
"""Rows drawn at a time; also the rows of a row group."""


def draw(rows: Sequence[int], chunk: int, count: int, *, zipf: float, seed: int) -> pl.DataFrame:
    """Draw ``count`` samples of a chunk: a UInt32 column per table, of ids below its rows."""

    def column(table: int) -> pl.Series:
        rng = np.random.default_rng((seed, chunk, table))
        ids = scatter(zipf_ranks(rng, count, rows[table], zipf), rows[table])
        return pl.Series(f"C{table + 1}", ids.astype(np.uint32))

    with ThreadPoolExecutor() as pool:  # numpy's loops run beside each other
        return pl.DataFrame(list(pool.map(column, range(len(rows)))))


def write_log(path: Path, rows: Sequence[int], samples: int, *, zipf: float, seed: int) -> None:
    """Write a Parquet log.

    Parameters
    ----------
    path
        The file.
    rows
        Rows of every table.
    samples
        Rows of the log.
    zipf
        Skew exponent of all tables.
    seed
        What tells logs apart.
    """
    schema = pl.Schema({f"C{i + 1}": pl.UInt32 for i in range(len(rows))})

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        for chunk, first in enumerate(range(0, samples, CHUNK_ROWS)):
            yield draw(rows, chunk, min(CHUNK_ROWS, samples - first), zipf=zipf, seed=seed)

    register_io_source(source, schema=schema).sink_parquet(
        path, compression="lz4", row_group_size=CHUNK_ROWS
    )


def write_folder(folder: Path, samples: int, *, zipf: float, seed: int) -> None:
    """Write ``log.parquet``, ``model.toml`` and ``config.toml`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = preset_model("criteo-kaggle").table
    write_log(
        folder / "log.parquet", [table.rows for table in tables], samples, zipf=zipf, seed=seed
    )
    model = ['name = "scale"', 'interaction = "concat"', "top = [1]"]
    config = ['[model]\nfile = "model.toml"', '[log]\npath = "log.parquet"']
    for i, table in enumerate(tables):
        model.append(f'[[table]]\nname = "C{i + 1}"\nrows = {table.rows}\ndim = 16')
        config.append(f'[[log.table]]\ntable = "C{i + 1}"\ncolumn = "C{i + 1}"')
    (folder / "model.toml").write_text("\n".join(model) + "\n")
    (folder / "config.toml").write_text("\n".join(config) + "\n")


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the log and its configuration go")
    parser.add_argument("--rows", type=int, default=20_000_000, help="samples of the log")
    parser.add_argument("--zipf", type=float, default=1.05, help="skew exponent")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_folder(arguments.folder, arguments.rows, zipf=arguments.zipf, seed=arguments.seed)


if __name__ == "__main__":
    main()
