"""The emitted compute core gives the same integers as plain arithmetic, on both simulators."""

import contextlib
import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screc.models import preset_names, preset_shape
from screc_hw.compute.core import ComputeCore
from screc_hw.compute.params import ComputeParams
from screc_hw.emit import emit_systemverilog, lint
from screc_hw.netlist import check_netlist
from tests.cosim.compute_case import FULL, Session, Timing, busy, decoded
from tests.cosim.compute_case import given as run_of
from tests.cosim.compute_models import CORES, extremes, models, shapes, some
from tests.support.compute import IntegerModel, Stimulus, core_params

pytestmark = pytest.mark.cosim

QUICK = {
    ("icarus", "smallest"),
    ("icarus", "tight, dot"),
    ("icarus", "tight, concat"),
    ("verilator", "smallest"),
}
"""Builds of the default run; the others are part of the soak."""

LARGE = ("icarus", "tall")
"""Takes Icarus long, and is much like the others."""

PLACES = [
    pytest.param(
        (simulator, core),
        id=f"{simulator}-{core}",
        marks=() if (simulator, core) in QUICK else pytest.mark.slow,
    )
    for core in CORES
    for simulator in ("icarus", "verilator")
    if (simulator, core) != LARGE
]


@pytest.fixture(scope="module")
def opened():
    """Return the simulator with a core in it, started where it was not yet."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def session(simulator, core):
            return stack.enter_context(Session(simulator, CORES[core]))

        yield session


@pytest.fixture(params=PLACES)
def place(request, opened):
    """A simulator with a core in it, and the core's name."""
    return opened(*request.param), request.param[1]


def test_core_computes_every_kind_of_model(place):
    """One after the other with a LOAD in between, then again with pauses everywhere."""
    session, core = place
    rounds = [some(shape, session.params, 10 + n) for n, shape in enumerate(models(core).values())]
    session.check(rounds)
    session.check(rounds[::-1], busy(10))


def test_core_computes_at_the_bounds_of_its_integers(place):
    session, core = place
    params = session.params
    for shape in list(models(core).values())[:1]:
        for number, (name, case) in enumerate(extremes(shape, params).items()):
            session.check([case], busy(number) if number % 2 else FULL, note=name)


def test_batches_of_any_size(place):
    """From one sample on; rows that fill a sub-batch up are computed as zeros."""
    session, core = place
    rows = session.params.rows
    shape = next(iter(models(core).values()))
    model = IntegerModel.random(shape, 40)
    for samples in (1, rows - 1, rows, rows + 1, 3 * rows):
        data = Stimulus.batch(shape, rows, samples, samples)
        assert len(data.bags) == -(-samples // rows)
        session.check([(model, data)], busy(samples), note=f"{samples} samples")


def test_core_is_right_after_a_reset_at_any_time(place):
    """In LOAD, in the first sub-batch, in the last; what had come until then was right."""
    session, core = place
    shape = next(iter(models(core).values()))
    rounds = [some(shape, session.params, 50, count=4)]
    ((model, data),) = rounds
    expected = data.expected(model)
    whole = session.check(rounds)
    loads = len(model.load(session.params))
    for n, share in enumerate((-0.5, 0.02, 0.3, 0.6, 0.95)):
        stop = loads + int(share * (loads if share < 0 else whole.cycles[0]))
        played = session.play(run_of(rounds, session.params, busy(n), stop=stop))
        assert played.faults == []
        assert decoded(played) == expected[: len(played.results)]
        session.check(rounds, FULL if n % 2 else busy(n), note=f"after a reset at {stop}")


def test_held_back_results_lose_nothing(place):
    """One result in a hundred cycles: the core stops, and goes on."""
    session, core = place
    shape = next(iter(models(core).values()))
    count = -(-12 // session.params.rows)
    session.check([some(shape, session.params, 60, count=count)], Timing(back=0.99, seed=60))


# --- random models --------------------------------------------------------------------------------


def check_random_model(session, data, seed, samples, paused):
    shape = data.draw(shapes(session.params), label="model")
    case = (
        IntegerModel.random(shape, seed),
        Stimulus.batch(shape, session.params.rows, samples, seed + 1),
    )
    session.check([case], busy(seed) if paused else FULL, note=f"seed {seed}, {samples} samples:")


BOUNDS = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(BOUNDS, max_examples=40)
@given(data=st.data(), seed=st.integers(0, 999), samples=st.integers(1, 9), paused=st.booleans())
def test_random_models(opened, data, seed, samples, paused):
    check_random_model(opened("verilator", "smallest"), data, seed, samples, paused)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["without dot", "middle", "wide", "tall"])
@settings(BOUNDS, max_examples=100)
@given(data=st.data(), seed=st.integers(0, 999), samples=st.integers(1, 70), paused=st.booleans())
def test_hundred_random_models_on_larger_cores(opened, core, data, seed, samples, paused):
    check_random_model(opened("verilator", core), data, seed, samples, paused)


@pytest.mark.slow
@settings(BOUNDS, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 999), samples=st.integers(1, 9), paused=st.booleans())
def test_random_models_in_icarus(opened, data, seed, samples, paused):
    check_random_model(opened("icarus", "smallest"), data, seed, samples, paused)


# --- presets --------------------------------------------------------------------------------------


def enough_for(names, **core):
    """Parameters that all these presets fit."""
    each = [ComputeParams.for_model(preset_shape(name), **core) for name in names]
    fields = (
        *("vector_words", "max_vectors", "max_dense", "max_k", "max_n", "max_dim"),
        *("activation_words", "weight_steps", "requantise_words", "program_length", "dot"),
    )
    most = {field: max(getattr(params, field) for params in each) for field in fields}
    return ComputeParams(
        rows=core["rows"],
        columns=core["columns"],
        lanes=core["lanes"],
        slots=core["slots"],
        pair_units=max(params.pair_units for params in each),
        **most,
    )


@pytest.fixture(scope="module")
def for_presets():
    params = enough_for(preset_names(), rows=4, columns=64, lanes=8, slots=3)
    with Session("verilator", params) as session:
        yield session


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_presets_are_exact(for_presets, name):
    """Nine samples: two whole sub-batches and one of which most is filled up."""
    shape = preset_shape(name)
    rows = for_presets.params.rows
    model = IntegerModel.random(shape, 80)
    for_presets.check([(model, Stimulus.batch(shape, rows, 2 * rows + 1, 81))], busy(82))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", preset_names())
def test_presets_are_exact_in_icarus(name):
    shape = preset_shape(name)
    params = core_params(shape, rows=2, columns=64, lanes=8)
    with Session("icarus", params) as session:
        session.check([some(shape, params, 90, count=2)], busy(90))


# --- the emitted files ----------------------------------------------------------------------------


def test_emitted_core_is_clean(tmp_path):
    params = CORES["smallest"]
    files = emit_systemverilog(ComputeCore(params), name="compute_core", folder=tmp_path)
    lint(files, "compute_core")
    check_netlist(ComputeCore(params))
