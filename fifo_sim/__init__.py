"""Floor 3: the streaming pipeline, simulated to the clock; hardware, lowering, memory, energy, sizing, sweeps, traces."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "parts": ["Edge", "Resource", "Stage"],
        "pipeline": ["Pipeline"],
    },
)
