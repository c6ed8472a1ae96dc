"""Floor 3: the streaming pipeline, simulated to the clock; hardware, lowering, memory, energy, sizing, sweep, trace."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "energy": ["EnergyReport"],
        "energy_table": ["EnergyTable"],
        "hardware": ["Hardware"],
        "lowering": ["Lowered", "lower"],
        "memory": ["DoesNotFit", "MemoryLedger"],
        "many": ["simulate_many"],
        "parts": ["Edge", "Resource", "Stage"],
        "pipeline": ["Pipeline"],
        "result": ["SimResult"],
        "rtl": ["RtlReport", "check_rtl"],
        "simulator": ["simulate"],
        "streamed": ["streaming"],
        "verilog": ["to_verilog"],
        "sweeping": ["Table", "sweep"],
    },
)
