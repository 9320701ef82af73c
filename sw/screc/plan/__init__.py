"""The planner: which rows in which tier on which device, and which cores.

``docs/planner.md`` has its model; ``screc.plan.problem`` is what goes in, ``screc.plan.schema``
what comes out, ``screc.plan.solve`` the way between them, and ``screc.plan.check`` recomputes the
result from scratch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from screc.flow import Context


def run(ctx: Context) -> None:
    """Plan and write ``plan.json``."""
    from screc.plan.step import write_plan  # the solver takes half a second to import

    write_plan(ctx)
