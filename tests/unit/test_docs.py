import re
import runpy
from pathlib import Path

from click.testing import CliRunner

from screc.cli import cli

ROOT = Path(__file__).resolve().parents[2]


def test_interface_tables_are_up_to_date():
    module = runpy.run_path(str(ROOT / "scripts" / "interfaces.py"))
    page = (ROOT / "docs" / "interfaces.md").read_text()
    assert module["render"](page) == page


def test_every_public_module_of_the_packages_is_documented():
    for package in ("hw/screc_hw", "sim/screc_sim", "sw/screc"):
        for path in (ROOT / package).rglob("*.py"):
            first = path.read_text().lstrip()
            assert first.startswith(('"""', 'r"""', "#")), f"{path} has no module docstring"


def test_readme_names_only_commands_that_exist():
    named = set(re.findall(r"screc ([a-z]+)", (ROOT / "README.md").read_text()))
    help_text = CliRunner().invoke(cli, ["--help"]).output
    assert named
    for command in named:
        assert command in help_text, command
