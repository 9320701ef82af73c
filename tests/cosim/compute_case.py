"""Runs of an emitted compute core, and a simulator that plays one after the other."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from screc_hw.compute.core import ComputeCore
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import vector_bases
from screc_hw.emit import emit_systemverilog
from screc_hw.model import ModelShape
from screc_hw.stream import config_layout, feature_write_layout, result_layout
from screc_sim import runner
from screc_sim.native.program import layout_fields, pack_words
from tests.cosim.support import CACHE, needs
from tests.support.compute import IntegerModel, Stimulus

TOP = "compute_core"

Result = tuple[int, int, int]
"""Logit, probability and code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Probability per cycle that nothing is offered, or results are not taken, and a seed."""

    dense_idle: float = 0.0
    words_idle: float = 0.0
    back: float = 0.0
    seed: int = 0


FULL = Timing()


def busy(seed: int) -> Timing:
    """Pauses of all streams, differently often with every seed."""
    rng = np.random.default_rng(seed)
    low, middle, high = rng.permutation([0.1, 0.5, 0.85]).tolist()
    return Timing(dense_idle=low, words_idle=middle, back=high, seed=seed)


@dataclasses.dataclass
class Round:
    """Payloads of a model and its samples.

    ``words`` of every sub-batch, without their slot; ``results`` that must come.
    """

    config: list[int]
    dense: list[int]
    words: list[list[int]]
    results: int


@dataclasses.dataclass
class Given:
    """What a run is given; it begins with a reset.

    ``patience``: cycles without a transfer after which it is given up; ``stop``: cycles after which
    it is left, right or wrong.
    """

    rounds: list[Round]
    patience: int
    slots: int
    slot_low: int
    timing: Timing
    stop: int | None = None


@dataclasses.dataclass
class Played:
    """What came out of a run: payloads, cycles of each round, and broken rules."""

    results: list[int]
    cycles: list[int]
    counters: dict[str, int]
    faults: list[str]


def payloads(words: np.ndarray) -> list[int]:
    """Integers of rows of 32-bit words."""
    return [int.from_bytes(row.tobytes(), "little") for row in np.ascontiguousarray(words)]


def round_of(model: IntegerModel, stimulus: Stimulus, params: ComputeParams) -> Round:
    """Payloads of ``model`` and ``stimulus``."""
    loads = model.load(params)
    layout = config_layout()
    columns = {
        name: np.array([word[name] for word in loads], np.uint64)
        for name in ("target", "address", "data")
    }
    config = payloads(pack_words(layout_fields(layout), columns, layout.size))
    dense = [
        int.from_bytes(column.astype(np.int8).tobytes(), "little")
        for batch in stimulus.dense
        for column in batch.T
    ]
    fields = layout_fields(feature_write_layout(params))
    row_low, word_low, data_low = (fields[name][0] for name in ("row", "word", "data"))
    bases = vector_bases(model.shape, params.lanes)[1 if model.shape.dense else 0 :]
    words = [
        [
            row << row_low
            | (bases[f] + w) << word_low
            | int.from_bytes(part.astype(np.int8).tobytes(), "little") << data_low
            for row, vectors in enumerate(batch)
            for f, bag in enumerate(vectors)
            for w, part in enumerate(np.asarray(bag).reshape(-1, params.lanes))
        ]
        for batch in stimulus.bags
    ]
    return Round(config, dense, words, len(stimulus.bags) * params.rows)


def given(
    rounds: Sequence[tuple[IntegerModel, Stimulus]],
    params: ComputeParams,
    timing: Timing = FULL,
    *,
    stop: int | None = None,
) -> Given:
    """Return the payloads of models and their samples, one model after the other."""
    low, _ = layout_fields(feature_write_layout(params))["slot"]
    made = [round_of(model, stimulus, params) for model, stimulus in rounds]
    longest = max(params.latency(model.shape) for model, _ in rounds)
    return Given(made, 2000 + 3 * int(longest), params.slots, low, timing, stop)


def decoded(played: Played) -> list[Result]:
    """Results of a run."""
    layout = result_layout()
    views = [layout.from_bits(word) for word in played.results]
    return [(view.logit, view.probability, view.code) for view in views]


def told(shape: ModelShape) -> str:
    """Return a model as ``tests.support.compute.model_shape`` makes it."""
    dims = tuple(shape.feature_dim(f) for f in range(len(shape.features)))
    return (
        f"model_shape(dense={shape.dense}, bottom={shape.bottom}, dims={dims}, top={shape.top},"
        f" interaction={shape.interaction!r})"
    )


class Session:
    """A simulator with a core in it, which plays run after run.

    Parameters
    ----------
    simulator
        One of ``runner.SIMULATORS``.
    params
        The core's.
    core
        Its class.
    cache
        Folder of kept builds.
    """

    START_TIMEOUT_S = 60

    def __init__(
        self,
        simulator: str,
        params: ComputeParams,
        *,
        core: type[ComputeCore] = ComputeCore,
        cache: Path = CACHE,
    ) -> None:
        needs(simulator)
        self.params = params
        # the name of a socket is short
        self._folder = Path(tempfile.mkdtemp(prefix="screc-"))
        try:
            rtl = self._folder / "rtl"
            emit_systemverilog(core(params), name=TOP, folder=rtl)
            build = runner.build(simulator, sorted(rtl.glob("*.sv")), TOP, cache=cache)
            address = str(self._folder / "socket")
            self._error: Exception | None = None
            with Listener(address) as listener:
                self._thread = threading.Thread(
                    target=functools.partial(self._simulate, build, address), daemon=True
                )
                self._thread.start()
                self._connection: Connection[Any, Any] = listener.accept()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _simulate(self, build: runner.Build, address: str) -> None:
        environment = {"COMPUTE_ADDRESS": address}
        try:
            runner.run(
                build, self._folder / "run", "tests.cosim.compute_tb", environment=environment
            )
        except Exception as error:
            self._error = error
            try:
                Client(address).close()  # it may be waited for
            except OSError:
                return

    def play(self, run: Given, *, timeout_s: float = 500) -> Played:
        """Play a run.

        Raises
        ------
        screc_sim.runner.SimulationError
            If the simulator ends, or the time is over.
        """
        ends = time.monotonic() + timeout_s
        try:
            self._connection.send(run)
            while not self._connection.poll(0.2):
                if not self._thread.is_alive() or time.monotonic() > ends:
                    break
            else:
                played: Played = self._connection.recv()
                return played
        except (EOFError, OSError):
            self._thread.join(self.START_TIMEOUT_S)
        raise self._error or runner.SimulationError("the simulator gave no answer")

    def check(
        self,
        rounds: Sequence[tuple[IntegerModel, Stimulus]],
        timing: Timing = FULL,
        *,
        note: str = "",
    ) -> Played:
        """Play models and samples; every result is right and nothing more comes.

        Raises
        ------
        AssertionError
            If not; with ``note``, the models, the timing and the first difference.
        """
        played = self.play(given(rounds, self.params, timing))
        expected = [result for model, data in rounds for result in data.expected(model)]
        got = decoded(played)
        story = f"{note} {'; '.join(told(model.shape) for model, _ in rounds)}; {timing}"
        assert played.faults == [], f"{played.faults} of {story}"
        assert len(got) == len(expected), f"{len(got)} results, not {len(expected)}, of {story}"
        wrong = [n for n, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1]]
        assert not wrong, (
            f"result {wrong[0]} is {got[wrong[0]]}, not {expected[wrong[0]]}"
            f" (logit, probability, code); {len(wrong)} of {len(got)} differ, of {story}"
        )
        return played

    def close(self) -> None:
        """End the simulator."""
        try:
            self._connection.send(None)
        except OSError:
            pass
        self._connection.close()
        self._thread.join(self.START_TIMEOUT_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
