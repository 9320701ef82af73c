"""An interrupted simulation is gone at once, with everything it started."""

import time

import pytest

from screc_sim import runner
from tests.cosim.device_case import DOT, build_device, compile_case
from tests.cosim.support import needs
from tests.cosim.test_device import SMALL


@pytest.mark.cosim
@pytest.mark.parametrize("simulator", ["verilator", "icarus"])
def test_an_interrupt_ends_the_simulator(tmp_path, simulator):
    needs(simulator)
    build = build_device(simulator, compile_case(tmp_path, DOT, **SMALL).params)
    started = time.monotonic()

    def interrupt():
        if time.monotonic() - started > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(build, tmp_path, "tests.cosim.endless_tb", poll=interrupt)
    assert time.monotonic() - started < 6
