"""Many plans over a grid of settings, and RTL runs of chosen ones: ``screc sweep``.

:mod:`grid` makes the points, :mod:`work` keeps what is finished, :mod:`evaluate` plans and measures
one point, :mod:`workers` does that on one machine or a Dask cluster, and :mod:`table`,
:mod:`pareto` and :mod:`picture` show what came out.
"""
