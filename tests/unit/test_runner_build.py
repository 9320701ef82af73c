"""The runner's own behaviour; simulators themselves are in tests/cosim."""

import shutil

import pytest

from screc_sim import runner

DESIGN = """module tiny(input logic clk, output logic q);
  always_ff @(posedge clk) q <= ~q;
endmodule
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tiny.sv"
    path.write_text(DESIGN)
    return path


def needs_icarus():
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus is not installed")


def test_an_unknown_simulator_is_named(source):
    with pytest.raises(ValueError, match="one of verilator, icarus, not 'questa'"):
        runner.build("questa", [source], "tiny")


def test_no_sources_is_an_error():
    with pytest.raises(ValueError, match="no sources"):
        runner.build("icarus", [], "tiny")


def test_a_missing_simulator_says_where_to_get_it(source, monkeypatch, tmp_path):
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    with pytest.raises(runner.SimulatorMissingError, match="apt install iverilog") as caught:
        runner.build("icarus", [source], "tiny", cache=tmp_path)
    assert caught.value.tool == "iverilog"


def test_a_missing_compiler_says_where_to_get_it(source, monkeypatch, tmp_path):
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    with pytest.raises(runner.SimulatorMissingError, match=r"apt install (make|g\+\+)"):
        runner.build("verilator", [source], "tiny", cache=tmp_path)


def test_an_equal_design_is_built_once_and_an_edited_one_again(source, tmp_path):
    needs_icarus()
    first = runner.build("icarus", [source], "tiny", cache=tmp_path / "cache")
    again = runner.build("icarus", [source], "tiny", cache=tmp_path / "cache")
    assert first.seconds > 0
    assert (again.folder, again.seconds) == (first.folder, 0.0)
    source.write_text(DESIGN.replace("~q", "q"))
    assert runner.build("icarus", [source], "tiny", cache=tmp_path / "cache").folder != first.folder


def test_sources_that_do_not_compile_are_an_error_with_the_log(source, tmp_path):
    needs_icarus()
    source.write_text(DESIGN.replace("endmodule", ""))
    with pytest.raises(runner.SimulationError, match=r"(?s)could not build tiny.*syntax error"):
        runner.build("icarus", [source], "tiny", cache=tmp_path / "cache")


def test_old_builds_are_dropped(source, tmp_path, monkeypatch):
    needs_icarus()
    monkeypatch.setattr(runner, "KEPT_BUILDS", 2)
    folders = []
    for i in range(3):
        source.write_text(DESIGN + f"// {i}\n")
        folders.append(runner.build("icarus", [source], "tiny", cache=tmp_path / "cache").folder)
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_a_failing_test_bench_is_an_error_with_the_log(source, tmp_path):
    needs_icarus()
    build = runner.build("icarus", [source], "tiny", cache=tmp_path / "cache")
    with pytest.raises(runner.SimulationError, match=r"run of no_such_module failed"):
        runner.run(build, tmp_path / "run", "no_such_module")


def test_icarus_gets_processes_that_run_at_time_zero():
    text = "module a(input x);\n  always_comb begin\n  end\n  always_comb begin\n  end\nendmodule\n"
    plain = "module b(input x);\nendmodule\n"
    done = runner.for_icarus(text + plain)
    assert done.count("initial icarus_started <= 1;") == 1
    assert done.count("always @* begin if (icarus_started) begin end") == 2
    assert "always_comb" not in done
    assert done.endswith(plain)
