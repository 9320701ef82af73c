"""``python -m screc``."""

from screc.cli import main

main()
