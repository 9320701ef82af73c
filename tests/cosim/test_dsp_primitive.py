"""DSP48E2 instances do what their behavioural twins do, cycle for cycle."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from screc_hw.dsp import DotChain
from screc_hw.emit import emit_netlist
from screc_hw.netlist import convert

MODEL = Path(__file__).parent / "models" / "dsp48e2.sv"

BENCH = """
module bench;
  localparam A = {a}, B = {b}, L = {length}, P = {p};
  reg clk = 0, rst = 0;
  reg [A*L-1:0] a = 0;
  reg [B*L-1:0] b = 0;
  wire signed [P-1:0] p, q;
  plain one (.clk(clk), .rst(rst), .a(a), .b(b), .p(p));
  instances two (.clk(clk), .rst(rst), .a(a), .b(b), .p(q));
  integer n, k, wrong = 0, seen = 0;
  initial begin
    for (n = 0; n < 4000; n = n + 1) begin
      for (k = 0; k < L; k = k + 1) begin
        a[k*A +: A] = n % 7 ? $random : n % 2 ? 1 << (A - 1) : (1 << (A - 1)) - 1;
        b[k*B +: B] = n % 5 ? $random : n % 3 ? 1 << (B - 1) : (1 << (B - 1)) - 1;
      end
      #1 clk = 1; #1 clk = 0;
      if (n > L + 3) begin
        seen = seen + (p != 0);
        wrong = wrong + (p !== q);
      end
    end
    $display("wrong %0d seen %0d", wrong, seen);
    $finish;
  end
endmodule
"""


def compare(folder: Path, length: int, mutant: tuple[str, str] | None = None) -> tuple[int, int]:
    """Return how many of the sums differ, and how many were not 0."""
    a, b = 16, 8
    files = [MODEL]
    for name, primitives in (("plain", False), ("instances", True)):
        netlist = convert(DotChain(length, a, b), name=name, primitives=primitives)
        files += emit_netlist(netlist, folder / name)
    if mutant:
        changed = folder / "instances" / "instances.sv"
        text = changed.read_text(encoding="utf-8")
        assert mutant[0] in text
        changed.write_text(text.replace(*mutant), encoding="utf-8")
    bench = folder / "bench.sv"
    width = a + b + (length - 1).bit_length()
    bench.write_text(BENCH.format(a=a, b=b, length=length, p=width), encoding="utf-8")
    program = folder / "bench"
    subprocess.run(
        ["iverilog", "-g2012", "-o", program, bench, *files], check=True, capture_output=True
    )
    done = subprocess.run(["vvp", "-n", program], check=True, capture_output=True, text=True)
    words = done.stdout.split()
    return int(words[1]), int(words[3])


@pytest.mark.cosim
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize("length", [1, 4, 8, 16])
def test_instances_do_what_the_twin_does(tmp_path: Path, length: int) -> None:
    wrong, seen = compare(tmp_path, length)
    assert wrong == 0
    assert seen > 3900


@pytest.mark.cosim
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
def test_a_lost_cascade_is_seen(tmp_path: Path) -> None:
    wrong, _ = compare(tmp_path, 4, (".PCIN(cascade_2)", ".PCIN(48'h0)"))
    assert wrong > 3900
