"""Errors with the exit code they end a command with; the command line prints them without trace."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from pathlib import Path


class ScrecError(Exception):
    """Base of every error that a person is meant to read. Exit code 1."""

    exit_code = 1


class ConfigError(ScrecError):
    """Bad input: names the file, the line or field, the value and what would be valid."""

    def __init__(
        self, message: str, *, path: str | Path | None = None, field: str | None = None
    ) -> None:
        self.path = path
        self.field = field
        where = ": ".join(str(part) for part in (path, field) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


class PlanErrorKind(enum.Enum):
    """Which resource made a plan infeasible."""

    DSP = "dsp"
    LUT = "lut"
    FF = "ff"
    BRAM = "bram36"
    URAM = "uram"
    DRAM = "dram"
    SSD = "ssd"
    POWER = "power"
    LATENCY = "latency"
    RATE = "rate"
    LOSS = "loss"
    TIER = "tier"
    SOLVER = "solver"


@dataclasses.dataclass(frozen=True)
class Need:
    """An amount that is short.

    ``resource`` is a kind of device, or ``plan`` for a requirement; ``field`` its key; ``have``
    None where none is given. Of ``rate`` less is needed than is had, of everything else more.
    """

    resource: str
    field: str
    have: float | None
    need: float


class PlanError(ScrecError):
    """No plan exists: names the scarce resource, needed and had, and what would help. Exit 2.

    ``needs`` are the amounts that, raised together, would do; each of them is needed.
    """

    exit_code = 2

    def __init__(
        self,
        kind: PlanErrorKind,
        message: str,
        hints: Sequence[str] = (),
        needs: Sequence[Need] = (),
    ) -> None:
        self.kind = kind
        self.hints = tuple(hints)
        self.needs = tuple(needs)
        lines = [f"infeasible ({kind.value}): {message}"]
        lines += [f"  - {hint}" for hint in hints]
        super().__init__("\n".join(lines))


class CheckError(ScrecError):
    """A check failed, such as a simulated word that differs from the golden model. Exit 2.

    ``rule`` is what a plan breaks, see ``screc.plan.check``; None of other checks.
    """

    exit_code = 2

    def __init__(self, message: str, *, rule: str | None = None) -> None:
        self.rule = rule
        super().__init__(message)


class ToolchainError(ScrecError):
    """A tool is missing or failed. Exit 3."""

    exit_code = 3

    def __init__(self, tool: str, need: str, found: str = "not found") -> None:
        self.tool = tool
        super().__init__(f"{tool} {found}: {need}; `screc doctor` lists every tool")
