"""Write docs/interfaces.md's tables from the wire formats in ``screc_hw.protocol``.

The text between the markers is replaced; a test checks that it is up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from screc_hw import protocol

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interfaces.md"

FIELDS = {
    "lookup": protocol.LOOKUP_FIELDS,
    "feature": protocol.FEATURE_FIELDS,
    "combiner": protocol.COMBINER_FIELDS,
    "operation": protocol.LAYER_FIELDS,
    "requantise": protocol.REQUANTISE_FIELDS,
    "result": protocol.RESULT_FIELDS,
}
ENUMS = {
    "header": protocol.Header,
    "status": protocol.Status,
    "statusbit": protocol.StatusBit,
    "target": protocol.LoadTarget,
    "register": protocol.Register,
}


def tables() -> dict[str, str]:
    """Return every generated table by the name in its marker."""
    made = {}
    for name, fields in FIELDS.items():
        rows = [f"| `{field}` | {low} | {width} |" for field, (low, width) in fields.items()]
        made[name] = "\n".join(["| field | lowest bit | bits |", "|---|---|---|", *rows])
    for name, members in ENUMS.items():
        form = "`0x{:03x}`" if name == "register" else "{}"
        rows = [f"| `{m.name}` | {form.format(int(m))} |" for m in members]
        head = {"register": "byte offset", "statusbit": "value", "target": "code"}.get(name, "word")
        made[name] = "\n".join([f"| name | {head} |", "|---|---|", *rows])
    return made


def render(text: str) -> str:
    """Return ``text`` with every marked table made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"docs/interfaces.md must hold the marker of table {name!r} once")
    return text


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
    sys.exit(0)
