"""Floor 3: the streaming pipeline, simulated to the clock; hardware, lowering, memory, energy, sizing, sweep, trace."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "deadlock": ["DeadlockExplanation", "explain_deadlock"],
        "energy": ["EnergyReport"],
        "energy_table": ["EnergyTable"],
        "explanation": ["Explanation", "explain"],
        "gantt_chart": ["gantt"],
        "hardware": ["Hardware"],
        "lowering": ["Lowered", "lower"],
        "incremental": ["Incremental"],
        "memory": ["DoesNotFit", "MemoryLedger"],
        "many": ["simulate_many"],
        "parts": ["Edge", "Resource", "Stage"],
        "pipeline": ["Pipeline"],
        "result": ["SimResult"],
        "rtl": ["RtlReport", "check_rtl"],
        "simulator": ["simulate"],
        "sizing": ["Depths", "ParetoFront", "min_depths", "pareto_depths"],
        "streamed": ["streaming"],
        "verilog": ["to_verilog"],
        "sweeping": ["Table", "sweep"],
        "trace": ["TraceSummary", "write_trace"],
    },
)
