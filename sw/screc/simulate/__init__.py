"""The simulate step: real requests through the emitted RTL, every result word compared."""

from screc.simulate.step import run

__all__ = ["run"]
