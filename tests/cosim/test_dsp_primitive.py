"""DSP48E2 instances do what their behavioural twins do, cycle for cycle."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from screc_hw.dsp import DotChain, PackedDotChain
from screc_hw.emit import emit_netlist
from screc_hw.netlist import convert, signature_ports

MODEL = Path(__file__).parent / "models" / "dsp48e2.sv"

BENCH = """
module bench;
  reg clk = 0, rst = 0;
  {declarations}
  plain one (.clk(clk), .rst(rst){inputs}{plain});
  instances two (.clk(clk), .rst(rst){inputs}{instances});
  integer n, k, wrong = 0, seen = 0;
  initial begin
    for (n = 0; n < 4000; n = n + 1) begin
      {drive}
      #1 clk = 1; #1 clk = 0;
      if (n > {length} + 4) begin
        seen = seen + ({some});
        wrong = wrong + ({differ});
      end
    end
    $display("wrong %0d seen %0d", wrong, seen);
    $finish;
  end
endmodule
"""

DRIVE = """
      for (k = 0; k < {length}; k = k + 1) begin
        {name}[k*{bits} +: {bits}] = $random;
        if (n % {often} == 0)
          {name}[k*{bits} +: {bits}] = n % 2 ? {lowest} : (1 << {bits} - 1) - 1;
        if ({name}[k*{bits} +: {bits}] == 1 << {bits} - 1) {name}[k*{bits} +: {bits}] = {lowest};
      end
"""


def bench(chain: DotChain | PackedDotChain, length: int) -> str:
    """Return a bench that gives both designs the same elements: random ones and extremes."""
    ports = signature_ports(chain).values()
    inputs = [port for port in ports if port.direction == "input"]
    outputs = [port for port in ports if port.direction == "output"]
    lowest = 1 if isinstance(chain, PackedDotChain) else 0  # packed operands are never -128
    declared = [f"reg [{port.width - 1}:0] {port.name} = 0;" for port in inputs]
    for side in "pq":
        declared += [f"wire [{port.width - 1}:0] {side}_{port.name};" for port in outputs]
    sums = {side: "".join(f", .{o.name}({side}_{o.name})" for o in outputs) for side in "pq"}
    return BENCH.format(
        declarations="\n  ".join(declared),
        inputs="".join(f", .{port.name}({port.name})" for port in inputs),
        plain=sums["p"],
        instances=sums["q"],
        drive="".join(
            DRIVE.format(
                name=port.name,
                bits=port.width // length,
                length=length,
                often=5 + 2 * i,
                lowest=(1 << port.width // length - 1) + lowest,
            )
            for i, port in enumerate(inputs)
        ),
        length=length,
        some=" || ".join(f"p_{port.name} != 0" for port in outputs),
        differ=" || ".join(f"p_{port.name} !== q_{port.name}" for port in outputs),
    )


def compare(
    folder: Path,
    make: Callable[[], DotChain | PackedDotChain],
    length: int,
    mutant: tuple[str, str] | None = None,
) -> tuple[int, int]:
    """Return how many of the sums differ, and how many were not 0."""
    files = [MODEL]
    for name, primitives in (("plain", False), ("instances", True)):
        netlist = convert(make(), name=name, primitives=primitives)
        files += emit_netlist(netlist, folder / name)
    if mutant:
        changed = folder / "instances" / "instances.sv"
        text = changed.read_text(encoding="utf-8")
        assert mutant[0] in text
        changed.write_text(text.replace(*mutant), encoding="utf-8")
    source, program = folder / "bench.sv", folder / "bench"
    source.write_text(bench(make(), length), encoding="utf-8")
    subprocess.run(
        ["iverilog", "-g2012", "-o", program, source, *files], check=True, capture_output=True
    )
    done = subprocess.run(["vvp", "-n", program], check=True, capture_output=True, text=True)
    words = done.stdout.split()
    return int(words[1]), int(words[3])


@pytest.mark.cosim
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize("length", [1, 4, 8, 16])
def test_instances_do_what_the_twin_does(tmp_path: Path, length: int) -> None:
    wrong, seen = compare(tmp_path, lambda: DotChain(length, 16, 8), length)
    assert wrong == 0
    assert seen > 3900


@pytest.mark.cosim
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize("length", [1, 7, 8])
def test_packed_instances_do_what_the_twin_does(tmp_path: Path, length: int) -> None:
    wrong, seen = compare(tmp_path, lambda: PackedDotChain(length), length)
    assert wrong == 0
    assert seen > 3900


@pytest.mark.cosim
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize("packed", [False, True])
def test_a_lost_cascade_is_seen(tmp_path: Path, packed: bool) -> None:
    wrong, _ = compare(
        tmp_path,
        lambda: PackedDotChain(4) if packed else DotChain(4, 16, 8),
        4,
        (".PCIN(dsp_2_out)", ".PCIN(48'h0)"),
    )
    assert wrong > 3900
