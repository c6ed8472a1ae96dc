"""Run a pipeline's Verilog and hold every start, end, counter and FIFO peak against the simulator's."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fifo_sim.pipeline import Pipeline
from fifo_sim.result import SimResult
from fifo_sim.rtl_library import LIBRARY
from fifo_sim.simulator import simulate
from fifo_sim.verilog import COUNTERS, top_module, word_bits
from vit.errors import InputError

COMPILER, RUNNER = "iverilog", "vvp"


@dataclass(frozen=True)
class RtlReport:
    """How the simulator compares with the Verilog of the same pipeline.

    Attributes:
        equal: whether all is equal: starts, ends, cycles or deadlock, stalls, FIFO peaks.
        difference: the first thing that is not, in words; "" if all is.
        firings: starts and ends compared.
        cycles: clock cycles the Verilog ran.
    """

    equal: bool
    difference: str
    firings: int
    cycles: int


def rtl_tool() -> str | None:
    """Path of iverilog; None where it is not installed."""
    return shutil.which(COMPILER) if shutil.which(RUNNER) else None


def check_rtl(pipeline: Pipeline | Mapping[str, Any]) -> RtlReport:
    """Run the pipeline's Verilog under iverilog and compare it with `simulate`.

    Raises:
        InputError: iverilog is not installed, or the dict is no pipeline.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_dict(pipeline)
    return check_rtl_of([pipeline])[0]


def check_rtl_of(pipelines: Sequence[Pipeline], library: str = LIBRARY) -> list[RtlReport]:
    """`check_rtl` for several pipelines in one run of the tool, on a library of modules that may be changed.

    Raises:
        InputError: iverilog is not installed, or refuses the text.
    """
    if rtl_tool() is None:
        raise InputError("--check-rtl", COMPILER, "an installed iverilog", "on Debian and Ubuntu: apt install iverilog")
    results = [simulate(pipeline) for pipeline in pipelines]
    text = [library]
    for i, (pipeline, result) in enumerate(zip(pipelines, results, strict=True)):
        text += [top_module(pipeline, f"pipeline_{i}"), _bench(pipeline, result, i)]
    found: list[list[list[str]]] = [[] for _ in pipelines]
    for line in _run("\n".join(text), [f"bench_{i}" for i in range(len(pipelines))]).splitlines():
        number, *rest = line.split()
        found[int(number)].append(rest)
    return [_compare(*each) for each in zip(pipelines, results, found, strict=True)]


def _bench(pipeline: Pipeline, result: SimResult, i: int) -> str:
    """A test bench: prints starts, ends and, where the simulator says all comes to rest, the counters.

    It stops when nothing has happened for longer than any register moves by itself.
    """
    bits, stages, edges = word_bits(pipeline), len(pipeline.stages), len(pipeline.edges)
    quiet = (
        max([*(stage.service_pattern.most for stage in pipeline.stages), *(edge.latency for edge in pipeline.edges)])
        + 2
    )
    counters = ", ".join(COUNTERS)
    shown = ", ".join(f"{counter}[i*{bits} +: {bits}]" for counter in COUNTERS)
    peaks = f'for (i = 0; i < {edges}; i = i + 1) $display("{i} P %0d %0d", i, peak[i*{bits} +: {bits}]);'
    return f"""\
module bench_{i};
  reg clk, rst, running;
  reg [63:0] cycle, rest;
  wire [{stages - 1}:0] start, finish;
  wire done;
  wire [{stages * bits - 1}:0] {counters};
  wire [{max(1, edges) * bits - 1}:0] peak;
  integer i;
  pipeline_{i} unit (.clk(clk), .rst(rst), .counting(1'b1), .start(start), .finish(finish), .done(done),
    {", ".join(f".{counter}({counter})" for counter in COUNTERS)}, .peak(peak));
  initial begin
    rst = 1; clk = 0; running = 1; cycle = 0; rest = 0;
    #1 clk = 1;
    #1 clk = 0; rst = 0;
    while (running) begin
      #1 clk = 1;
      #1 clk = 0;
    end
    {peaks}
    $display("{i} C %0d", cycle);
  end
  always @(posedge clk) if (!rst) begin
    for (i = 0; i < {stages}; i = i + 1) begin
      if (finish[i]) $display("{i} E %0d %0d", i, cycle);
      if (start[i]) $display("{i} S %0d %0d", i, cycle);
      if (cycle == {result.horizon}) $display("{i} L %0d %0d %0d %0d %0d %0d", i, {shown});
    end
    rest = (|start || |finish) ? 0 : rest + 1;
    if (cycle > {result.horizon} && (done || rest > {quiet})) running = 0;
    cycle = cycle + 1;
  end
endmodule
"""


def _run(text: str, tops: list[str]) -> str:
    """What the Verilog prints."""
    with tempfile.TemporaryDirectory(prefix="tilevit-rtl-") as folder:
        source, program = Path(folder) / "design.v", Path(folder) / "design.vvp"
        source.write_text(text, encoding="utf-8")
        chosen = [argument for top in tops for argument in ("-s", top)]
        _call([COMPILER, "-g2005", "-Wall", "-Wno-timescale", *chosen, "-o", str(program), str(source)])
        return _call([RUNNER, "-n", str(program)])


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaint = done.stderr.strip()
    if done.returncode or complaint:
        raise InputError(
            "verilog", complaint.splitlines()[0] if complaint else done.returncode, f"text {command[0]} takes"
        )
    return done.stdout


def _compare(pipeline: Pipeline, result: SimResult, lines: list[list[str]]) -> RtlReport:
    names = [stage.name for stage in pipeline.stages]
    starts: dict[str, list[int]] = {name: [] for name in names}
    ends: dict[str, list[int]] = {name: [] for name in names}
    stalls: dict[str, dict[str, int]] = {}
    peaks = [0] * len(pipeline.edges)
    cycles = 0
    for kind, *numbers in lines:
        first, *rest = map(int, numbers)
        if kind in "SE":
            (starts if kind == "S" else ends)[names[first]] += rest
        elif kind == "L":
            stalls[names[first]] = dict(zip(COUNTERS, rest, strict=True))
        elif kind == "P":
            peaks[first] = rest[0]
        else:
            cycles = first
    differences = [
        *_different_times("start", names, result.starts or {}, starts),
        *_different_times("end", names, result.ends or {}, ends),
    ]
    for name in names:
        for cause in COUNTERS:
            pair = result.stalls[name][cause], stalls[name][cause]
            differences += _different(f"stage {name}: cycles {cause}", *pair)
    for edge, ours, theirs in zip(pipeline.edges, result.max_occupancy, peaks, strict=True):
        differences += _different(f"edge {edge.name}: peak", ours, theirs)
    firings = sum(map(len, starts.values())) + sum(map(len, ends.values()))
    return RtlReport(not differences, differences[0] if differences else "", firings, cycles)


def _different_times(
    what: str, names: list[str], ours: Mapping[str, Sequence[int]], theirs: Mapping[str, Sequence[int]]
) -> list[str]:
    """The earliest cycle at which the two differ, over all stages, in words; nothing if they do not."""
    found = []
    for name in names:
        for k in range(max(len(ours[name]), len(theirs[name]))):
            pair = [times[name][k] if k < len(times[name]) else None for times in (ours, theirs)]
            if pair[0] != pair[1]:
                first, second = ("never" if cycle is None else f"in cycle {cycle}" for cycle in pair)
                earliest = min(cycle for cycle in pair if cycle is not None)
                found.append(
                    (earliest, f"stage {name}: {what} of firing {k} {first} in the simulator, {second} in Verilog")
                )
                break
    return [text for _, text in sorted(found)[:1]]


def _different(what: str, ours: int, theirs: int) -> list[str]:
    return [] if ours == theirs else [f"{what}: {ours} in the simulator, {theirs} in Verilog"]
