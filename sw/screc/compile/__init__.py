"""The compiler: memory images, row order and the LOAD queue; and the encoder of requests.

``screc.compile.layout`` says where everything lies, ``screc.compile.requests`` turns samples into
request blocks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from screc.flow import Context


def run(ctx: Context) -> None:
    """Compile and write the folder ``images``."""
    from screc.compile.step import write_images

    write_images(ctx)
