"""A pipeline as Verilog: FIFOs with ready/valid, stages with counters, ports, as one module of one clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fifo_sim.parts import Edge
from fifo_sim.pattern import Pattern
from fifo_sim.pipeline import Pipeline
from fifo_sim.rtl_library import LIBRARY
from vit.errors import InputError

MOST_ENTRIES = 1 << 20  # numbers written into one file
COUNTERS = ("busy", "starved", "blocked", "resource", "drained")


def to_verilog(pipeline: Pipeline | Mapping[str, Any], name: str = "pipeline") -> str:
    """Verilog-2001 text: the library of modules and a top module `name`.

    Ports of the top module: clk, rst (synchronous), counting (the stall counters run); start and finish, one bit a
    stage in stage order, high in the cycle it happens; done; the counters busy, starved, blocked, resource and drained,
    W bits a stage; peak, W bits a FIFO in edge order (largest fill so far).

    Raises:
        InputError: sequences too long to write out (more than 2^20 numbers in all), or a name that is no identifier.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_dict(pipeline)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
        raise InputError("name", name, "letters, digits and _, no digit first")
    return LIBRARY + "\n" + top_module(pipeline, name)


def word_bits(pipeline: Pipeline) -> int:
    """Width of every counter: 32, or 64 where a number of the pipeline or its run might not fit."""
    stages = zip(pipeline.stages, pipeline.firings, strict=True)
    longest = sum(stage.service_pattern.total(n) for stage, n in stages)
    longest += sum(edge.latency for edge in pipeline.edges) * max(pipeline.firings)
    longest = max(longest, *pipeline.firings, *pipeline.depths)
    return 32 if longest < 2**31 else 64


def top_module(pipeline: Pipeline, name: str) -> str:
    """The module of this pipeline alone, made of the library's."""
    patterns = [stage.service_pattern for stage in pipeline.stages]
    patterns += [pattern for edge in pipeline.edges for pattern in (edge.need_pattern, edge.rel_pattern)]
    numbers = sum(len(pattern.values) if pattern.pure else pattern.count or 0 for pattern in patterns)
    if numbers > MOST_ENTRIES:
        raise InputError(
            "pipeline", f"sequences of {numbers} numbers", f"at most {MOST_ENTRIES} to write out as Verilog"
        )
    writer = _Writer(pipeline, word_bits(pipeline))
    return writer.module(name)


class _Writer:
    """Lines of one top module. Wires are numbered as stages, edges and resources are; instances carry their names."""

    def __init__(self, pipeline: Pipeline, bits: int) -> None:
        self.pipeline, self.bits = pipeline, bits
        self.inputs: list[list[int]] = [[] for _ in pipeline.stages]
        self.outputs: list[list[int]] = [[] for _ in pipeline.stages]
        for e, edge in enumerate(pipeline.edges):
            self.inputs[pipeline.index[edge.dst]].append(e)
            self.outputs[pipeline.index[edge.src]].append(e)

    def module(self, name: str) -> str:
        stages, edges = len(self.pipeline.stages), len(self.pipeline.edges)
        lines = [
            f"module {name} (input wire clk, input wire rst, input wire counting,",
            f"  output wire [{stages - 1}:0] start, output wire [{stages - 1}:0] finish, output wire done,",
            *(f"  output wire [{stages * self.bits - 1}:0] {counter}," for counter in COUNTERS),
            f"  output wire [{max(1, edges) * self.bits - 1}:0] peak);",
            f"  wire [{stages - 1}:0] request, granted, more, stage_done;",
            f"  wire [{stages * self.bits - 1}:0] service;",
            "  assign done = &stage_done;",
        ]
        if not edges:
            lines.append("  assign peak = 0;")
        for e, edge in enumerate(self.pipeline.edges):
            lines += self.fifo(e, edge)
        for s in range(stages):
            lines += self.stage(s)
        lines += self.ports()
        return "\n".join([*lines, "endmodule", ""])

    def fifo(self, e: int, edge: Edge) -> list[str]:
        dst = self.pipeline.index[edge.dst]
        return [
            f"  // {_comment(edge.name)}",
            f"  wire push_{e}, ready_{e}, after_{e}, there_{e};",
            f"  wire [{self.bits - 1}:0] give_{e}, seen_{e};",
            f"  tv_fifo #(.W({self.bits}), .DEPTH({self.number(edge.depth)}), .LATENCY({edge.latency}))",
            f"    fifo_{e} (.clk(clk), .rst(rst), .push(push_{e}), .give(give_{e}), .ready(ready_{e}),",
            f"    .ready_after_push(after_{e}), .seen(seen_{e}), .peak({self.slice('peak', e)}));",
            f"  tv_reader #(.W({self.bits}), .AT_END({int(edge.release == 'end')}),",
            f"    {self.sequence('NEED_', edge.need_pattern, 'NEED_VALUES')},",
            f"    {self.sequence('REL_', edge.rel_pattern, 'REL_VALUES')})",
            f"    reader_{e} (.clk(clk), .rst(rst), .start(start[{dst}]), .finish(finish[{dst}]), .seen(seen_{e}),",
            f"    .there(there_{e}), .give(give_{e}));",
        ]

    def stage(self, s: int) -> list[str]:
        stage, inputs, outputs = self.pipeline.stages[s], self.inputs[s], self.outputs[s]
        service = self.sequence("", stage.service_pattern, "SERVICE", with_step=False)
        return [
            f"  // {_comment(stage.name)}",
            f"  tv_stage #(.W({self.bits}), .FIRINGS({self.number(self.pipeline.firings[s])}),",
            f"    .INPUTS({max(1, len(inputs))}), .OUTPUTS({max(1, len(outputs))}),",
            f"    .BBS({int(stage.mode == 'bbs')}), .EAGER({int(stage.fork == 'eager')}), {service})",
            f"    stage_{s}_{_identifier(stage.name)} (.clk(clk), .rst(rst), .counting(counting),",
            f"    .there({_joined('there', inputs)}), .ready({_joined('ready', outputs)}),",
            f"    .ready_after_push({_joined('after', outputs)}),",
            f"    .push({_joined('push', outputs) if outputs else ''}),",
            f"    .request(request[{s}]), .granted(granted[{s}]), .service({self.slice('service', s)}),",
            f"    .more(more[{s}]), .start(start[{s}]), .finish(finish[{s}]), .done(stage_done[{s}]),",
            *(f"    .{counter}({self.slice(counter, s)})," for counter in COUNTERS[:-1]),
            f"    .{COUNTERS[-1]}({self.slice(COUNTERS[-1], s)}));",
        ]

    def ports(self) -> list[str]:
        """The shared ports; a stage may start when all that it uses are granted."""
        turns: list[list[str]] = [[] for _ in self.pipeline.stages]
        ranked: list[str | None] = [None] * len(self.pipeline.stages)
        lines = []
        for r, resource in enumerate(self.pipeline.resources):
            members = [self.pipeline.index[name] for name in resource.order]
            for place, s in enumerate(members):
                if resource.policy == "rotate":
                    turns[s].append(f"grant_{r}[{place}]")
                else:
                    ranked[s] = f"grant_{r}[{place}]"
            lines.append(f"  wire [{len(members) - 1}:0] grant_{r};")
        lines += [f"  wire turn_{s} = {' & '.join(turn) or 1};" for s, turn in enumerate(turns)]
        for r, resource in enumerate(self.pipeline.resources):
            members = [self.pipeline.index[name] for name in resource.order]
            backwards = members[::-1]
            start = ", ".join(f"start[{s}]" for s in backwards)
            service = ", ".join(self.slice("service", s) for s in backwards)
            if resource.policy == "rotate":
                asks = f".more({{{', '.join(f'more[{s}]' for s in backwards)}}})"
            else:
                asks = f".request({{{', '.join(f'request[{s}] & turn_{s}' for s in backwards)}}})"
            lines += [
                f"  tv_port_{resource.policy} #(.W({self.bits}), .N({len(members)}))",
                f"    port_{r} (.clk(clk), .rst(rst), .start({{{start}}}), {asks},",
                f"    .service({{{service}}}), .grant(grant_{r}));",
            ]
        for s, grant in enumerate(ranked):
            lines.append(f"  assign granted[{s}] = turn_{s}" + (f" & {grant};" if grant else ";"))
        return lines

    def sequence(self, prefix: str, pattern: Pattern, values: str, with_step: bool = True) -> str:
        """Parameters of a `tv_sequence`, its numbers packed with the first lowest."""
        period = pattern.values if pattern.pure else pattern.expand(pattern.count or 0)
        packed = "".join(f"{value:0{self.bits // 4}x}" for value in reversed(period.tolist()))
        step = f".{prefix}STEP({self.number(pattern.loop.step if pattern.pure else 0)}), " if with_step else ""
        return f".{prefix}PERIOD({len(period)}), {step}.{values}({self.bits * len(period)}'h{packed})"

    def number(self, value: int) -> str:
        return f"{self.bits}'d{value}"

    def slice(self, bus: str, index: int) -> str:
        return f"{bus}[{(index + 1) * self.bits - 1}:{index * self.bits}]"


def _joined(wire: str, edges: Iterable[int]) -> str:
    """A bus of one wire an edge; a constant 1 where there is none."""
    return "{" + (", ".join(f"{wire}_{e}" for e in edges) or "1'b1") + "}"


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _comment(name: str) -> str:
    return re.sub(r"[^ -~]", "?", name)
