"""Fast runs of parts of a memory core: C++ test benches around Verilator's models, without cocotb.

:mod:`~screc_sim.native.program` builds them. :mod:`~screc_sim.native.harness` runs the gather
engine, :mod:`~screc_sim.native.ddr4` describes the DDR4 memory that may answer it,
:mod:`~screc_sim.native.gather` makes tables, lookups and what they must give.
:mod:`~screc_sim.native.tt` does all of that for the TT reconstructor.
"""
