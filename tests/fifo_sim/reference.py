"""A pipeline stepped clock by clock, register by register: the semantics written to be read, not to be fast.

Every cycle looks at registers only (what was clocked in at its start), decides, and clocks the changes in at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fifo_sim import Pipeline

CAUSES = ("busy", "starved", "blocked", "resource", "drained")


@dataclass
class Fifo:
    """Registers: tokens written, tokens given back, and the tokens still on their way to the reading side."""

    depth: int
    latency: int
    need: list[int]
    rel: list[int]
    release: str
    written: int = 0
    given_back: int = 0
    visible: int = 0
    on_the_way: list[int] = field(default_factory=list)  # cycles in which they were pushed
    peak: int = 0
    pushes_now: bool = False
    gives_back_now: int = 0

    def has_room_for(self, token: int) -> bool:
        return token < self.given_back + self.depth

    def clock(self, cycle: int) -> None:
        """The clock edge that ends `cycle`."""
        if self.pushes_now:
            self.written += 1
            self.on_the_way.append(cycle)
        self.given_back += self.gives_back_now
        self.pushes_now, self.gives_back_now = False, 0
        while self.on_the_way and self.on_the_way[0] + self.latency <= cycle + 1:
            self.on_the_way.pop(0)
            self.visible += 1
        self.peak = max(self.peak, self.written - self.given_back)


@dataclass
class Unit:
    """Registers of one stage: firings started and ended, cycles computed, outputs already written."""

    service: list[int]
    mode: str
    fork: str
    inputs: list[Fifo]
    outputs: list[Fifo]
    started: int = 0
    ended: int = 0
    computed: int = 0
    written: set[int] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    stalls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))

    @property
    def at_work(self) -> bool:
        return self.started > self.ended

    @property
    def done(self) -> bool:
        return self.ended == len(self.service)

    def try_to_end(self, cycle: int) -> None:
        """Write outputs if the firing at work is ready and they have room."""
        k = self.ended
        if not self.at_work or self.computed < self.service[k]:
            return
        open_outputs = [i for i in range(len(self.outputs)) if i not in self.written]
        room = [i for i in open_outputs if self.outputs[i].has_room_for(k)]
        if self.fork == "eager" or len(room) == len(open_outputs):
            for i in room:
                self.outputs[i].pushes_now = True
                self.written.add(i)
        if len(self.written) == len(self.outputs):
            self.ends.append(cycle)
            self.ended += 1
            self.computed, self.written = 0, set()
            self.give_back("end", k)

    def inputs_there(self) -> bool:
        return all(fifo.visible >= fifo.need[self.started] for fifo in self.inputs)

    def space_there(self) -> bool:
        return self.mode == "bas" or all(fifo.has_room_for(self.started) for fifo in self.outputs)

    def may_start(self) -> bool:
        """All but a port is there."""
        left = self.started < len(self.service)
        return left and not self.at_work and self.inputs_there() and self.space_there()

    def start(self, cycle: int) -> None:
        k = self.started
        self.starts.append(cycle)
        self.started += 1
        self.give_back("start", k)

    def give_back(self, when: str, k: int) -> None:
        for fifo in self.inputs:
            if fifo.release == when:
                fifo.gives_back_now = fifo.rel[k] - (fifo.rel[k - 1] if k else 0)

    def ready_now(self, cycle: int) -> bool:
        return self.at_work and self.starts[-1] + self.service[self.ended] == cycle

    def clock(self, cycle: int) -> None:
        self.computed += self.at_work and self.computed < self.service[self.ended]

    def cause(self) -> str:
        """What the stage does in this cycle, its firings of this cycle started and ended."""
        if self.at_work:
            return "busy" if self.computed < self.service[self.ended] else "blocked"
        if self.done:
            return "drained"
        if not self.inputs_there():
            return "starved"
        return "resource" if self.space_there() else "blocked"


@dataclass
class Port:
    """Registers of one shared port: whose turn it is, and for how many cycles more it is held."""

    order: list[Unit]
    policy: str
    turn: int = 0
    held: int = 0

    def offers_to(self, unit: Unit) -> bool:
        return self.policy == "rotate" and self.held == 0 and self.order[self.turn] is unit

    def take(self, unit: Unit) -> None:
        self.held = unit.service[unit.started]
        if self.policy == "rotate":
            for _ in self.order:
                self.turn = (self.turn + 1) % len(self.order)
                other = self.order[self.turn]
                if other.started + (other is unit) < len(other.service):
                    break

    def clock(self, cycle: int) -> None:
        self.held = max(0, self.held - 1)


@dataclass
class Outcome:
    """What `simulate` reports, found by stepping."""

    cycles: int | None
    deadlock: bool
    horizon: int
    starts: dict[str, list[int]]
    ends: dict[str, list[int]]
    max_occupancy: list[int]
    stalls: dict[str, dict[str, int]]


def step_through(pipeline: Pipeline) -> Outcome:
    """Step a pipeline to its end, or until nothing moves and nothing is under way."""
    fifos, units, ports = build(pipeline)
    cycle = horizon = 0
    ledger = copy_of_ledger(units)
    while True:
        before = [(unit.started, unit.ended, len(unit.written)) for unit in units.values()]
        for unit in units.values():
            unit.try_to_end(cycle)
        start_those_that_can(units, ports, cycle)
        after = [(unit.started, unit.ended, len(unit.written)) for unit in units.values()]
        if after != before or any(unit.ready_now(cycle) for unit in units.values()):
            horizon, ledger = cycle, copy_of_ledger(units)
        elif not under_way(fifos, units, ports):
            break
        for unit in units.values():
            unit.stalls[unit.cause()] += 1
        for part in (*fifos, *units.values(), *ports):
            part.clock(cycle)
        cycle += 1
    deadlock = not all(unit.done for unit in units.values())
    return Outcome(
        None if deadlock else horizon,
        deadlock,
        horizon,
        {name: unit.starts for name, unit in units.items()},
        {name: unit.ends for name, unit in units.items()},
        [fifo.peak for fifo in fifos],
        ledger,
    )


def build(pipeline: Pipeline) -> tuple[list[Fifo], dict[str, Unit], list[Port]]:
    """Registers for a pipeline, all in their first state."""
    firings = dict(zip(pipeline.index, pipeline.firings, strict=True))
    fifos = [
        Fifo(
            edge.depth,
            edge.latency,
            edge.need_pattern.expand(firings[edge.dst]).tolist(),
            edge.rel_pattern.expand(firings[edge.dst]).tolist(),
            edge.release,
        )
        for edge in pipeline.edges
    ]
    units = {
        stage.name: Unit(
            stage.service_pattern.expand(firings[stage.name]).tolist(),
            stage.mode,
            stage.fork,
            [fifo for fifo, edge in zip(fifos, pipeline.edges, strict=True) if edge.dst == stage.name],
            [fifo for fifo, edge in zip(fifos, pipeline.edges, strict=True) if edge.src == stage.name],
        )
        for stage in pipeline.stages
    }
    ports = [Port([units[name] for name in resource.order], resource.policy) for resource in pipeline.resources]
    return fifos, units, ports


def start_those_that_can(units: dict[str, Unit], ports: list[Port], cycle: int) -> None:
    """Every start of this cycle; a port with priority goes to the first that lacks nothing else."""
    rotating = {id(unit): [] for unit in units.values()}
    ranked = {id(unit): None for unit in units.values()}
    for port in ports:
        for unit in port.order:
            if port.policy == "rotate":
                rotating[id(unit)].append(port)
            else:
                ranked[id(unit)] = port
    lacks_nothing_else = [
        unit for unit in units.values() if unit.may_start() and all(port.offers_to(unit) for port in rotating[id(unit)])
    ]
    for unit in lacks_nothing_else:
        port = ranked[id(unit)]
        if port is not None:
            first = next(other for other in port.order if any(other is ready for ready in lacks_nothing_else))
            if port.held or first is not unit:
                continue
        for held in [*rotating[id(unit)], *([port] if port else [])]:
            held.take(unit)
        unit.start(cycle)


def under_way(fifos: list[Fifo], units: dict[str, Unit], ports: list[Port]) -> bool:
    """Whether some register will still change by itself."""
    computing = any(unit.at_work and unit.computed < unit.service[unit.ended] for unit in units.values())
    return computing or any(fifo.on_the_way for fifo in fifos) or any(port.held for port in ports)


def copy_of_ledger(units: dict[str, Unit]) -> dict[str, dict[str, int]]:
    return {name: dict(unit.stalls) for name, unit in units.items()}
