"""The whole MIP of a two-table instance, written out: a change of any constraint shows here.

After a change that is meant: SCREC_REFREEZE=1 pytest tests/plan/test_frozen_model.py
"""

import dataclasses
import os
from pathlib import Path

from screc.plan.model import build_model, make_intervals
from tests.plan.support import budget_of, problem_of

FROZEN = Path(__file__).parent / "two_tables.lp"


def frozen_problem():
    """A problem whose figures do not depend on the cores' cost formulas."""
    problem = problem_of(
        [6, 4], pooling=[2.0, 1.0], batch=8, max_seconds=1e-3, max_latency=1e-2, intervals=50
    )
    params = problem.patterns[0].params
    parts = ("gather", "combine", "compute", "host")
    pattern = dataclasses.replace(
        problem.patterns[0],
        params=params,
        size=0.1,
        seconds={part: (i + 1) * 1e-7 for i, part in enumerate(parts)},
        latency=2e-6,
    )
    double = dataclasses.replace(
        pattern,
        params=dataclasses.replace(params, memory=2),
        size=0.2,
        seconds={part: seconds / 2 for part, seconds in pattern.seconds.items()},
    )
    figures = {"ssd_kiops": 400, "p2p_gbs": 3, "ssd_gib": 1, "dram_gib": 1e-5}
    rates = {f"random_{size}_gbs": rate for size, rate in ((64, 8), (128, 16), (512, 16))}
    budget = budget_of(**figures, **rates)
    return dataclasses.replace(problem, patterns=[pattern, double], budget=budget)


def test_the_model_is_the_frozen_one(tmp_path):
    problem = frozen_problem()
    model = build_model(problem, make_intervals(problem, [6, 4]))
    path = tmp_path / "model.lp"
    model.write(str(path), io_options={"symbolic_solver_labels": True})
    text = path.read_text()
    if os.environ.get("SCREC_REFREEZE"):
        FROZEN.write_text(text)
    assert numbers_rounded(text) == numbers_rounded(FROZEN.read_text())


def numbers_rounded(text):
    """Numbers to 9 digits: the last ones depend on the machine's mathematics library."""
    words = []
    for line in text.splitlines():
        for word in line.split():
            try:
                words.append(f"{float(word):.9g}")
            except ValueError:
                words.append(word)
    return words
