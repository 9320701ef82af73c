"""What solvers print must not reach stdout, which ``--json`` is read from."""

import ctypes
import os

import pytest

from screc.plan.solver import silenced


def test_nothing_that_c_prints_meanwhile_reaches_stdout(capfd):
    library = ctypes.CDLL(None)
    os.write(1, b"before ")
    with silenced():
        library.printf(b"lost in a buffer")
        os.write(1, b"lost at once")
    os.write(1, b"after")
    assert capfd.readouterr().out == "before after"


def test_stdout_is_restored_after_an_error(capfd):
    with pytest.raises(ValueError, match="within"), silenced():
        raise ValueError("within")
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
