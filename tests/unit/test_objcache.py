"""The compiler's wrapper that keeps the objects of Verilator's own library."""

import pytest

from screc_sim import objcache

COMPILER = """#!/bin/sh
echo "$@" >> calls
case "$1" in -bad) exit 3 ;; esac
for last; do :; done
while [ "$1" != -o ]; do shift; done
cat "$last" > "$2"
"""


@pytest.fixture
def compile_it(tmp_path, monkeypatch):
    """Return a function that compiles a file, with its exit status and whether it was done."""
    monkeypatch.chdir(tmp_path)
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    (tmp_path / "verilated.cpp").write_text("library")
    (tmp_path / "Vtop.cpp").write_text("model")
    calls = tmp_path / "calls"

    def run(source, *options):
        calls.unlink(missing_ok=True)
        command = [str(compiler), *options, "-c", "-o", "made.o", str(source)]
        status = objcache.main(tmp_path / "kept", command)
        return status, calls.exists()

    return run


def test_a_file_of_the_library_is_compiled_once(tmp_path, compile_it):
    library = tmp_path / "verilated.cpp"
    assert compile_it(library) == (0, True)
    (tmp_path / "made.o").unlink()
    assert compile_it(library) == (0, False)
    assert (tmp_path / "made.o").read_text() == "library"


def test_another_command_is_another_object(tmp_path, compile_it):
    library = tmp_path / "verilated.cpp"
    assert compile_it(library) == (0, True)
    assert compile_it(library, "-DVM_TRACE=1") == (0, True)
    assert compile_it(library, "-DVM_TRACE=1") == (0, False)


@pytest.mark.parametrize("name", ["Vtop.cpp", "verilated.cpp"])
def test_files_of_a_model_are_always_compiled(tmp_path, compile_it, name):
    # where the makefile is, files have no folder
    source = name if name == "verilated.cpp" else tmp_path / name
    for _ in range(2):
        assert compile_it(source) == (0, True)


def test_a_compiler_that_fails_leaves_nothing(tmp_path, compile_it):
    library = tmp_path / "verilated.cpp"
    for _ in range(2):
        assert compile_it(library, "-bad") == (3, True)
    assert not (tmp_path / "kept").exists()
