"""The planner: which rows in which tier, and which cores.

``screc.plan.schema`` is what comes out, ``screc.plan.model`` the MIP, ``screc.plan.check`` what
recomputes its result from scratch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from screc.flow import Context


def run(ctx: Context) -> None:
    """Plan and write ``plan.json``."""
    from screc.plan.step import write_plan  # the solver takes half a second to import

    write_plan(ctx)
