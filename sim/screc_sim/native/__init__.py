"""Fast runs of the gather engine: a C++ test bench around Verilator's model, without cocotb.

:mod:`~screc_sim.native.harness` builds and runs it, :mod:`~screc_sim.native.ddr4` describes the
DDR4 memory that may answer it, :mod:`~screc_sim.native.gather` makes tables, lookups and what they
must give.
"""
