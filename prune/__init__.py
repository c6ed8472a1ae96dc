"""Floor 3: fewer weights. Masks by magnitude and N:M, schedules; heads, MLP units and channels cut out for good."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "gates": ["learn_gates"],
        "importance": ["IMPORTANCES", "Scores"],
        "magnitude": ["SCOPES", "magnitude_prune"],
        "measure": ["sparsity"],
        "nm": ["nm_prune"],
        "schedule": ["CubicSchedule"],
        "structured": ["structured_prune"],
    },
)
