"""Access logs: any format as batches of samples, larger than memory, the same on every reading."""

from __future__ import annotations

from screc.logs.log import Log
from screc.logs.opening import log_files, open_log

__all__ = ["Log", "log_files", "open_log"]
