"""A process of its own around cocotb's runner, so that its parent can end it with all children.

``python -m screc_sim.launch '{"simulator": ..., ...}'``: the rest are arguments of
``Runner.test``.
"""

from __future__ import annotations

import json
import sys

from cocotb_tools.runner import get_runner


def main(arguments: str) -> None:
    """Run the tests that the JSON object ``arguments`` names."""
    options = json.loads(arguments)
    get_runner(options.pop("simulator")).test(**options)


if __name__ == "__main__":
    main(sys.argv[1])
