"""Floor 4: the search. Its space, its exact costs, its samplers, an Optuna study that resumes, and the Pareto front."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cost_aware": ["CostAwareSampler"],
        "costs": ["METRICS", "Costs"],
        "curves": ["Curve"],
        "dask_client": ["dask_map"],
        "importance": ["importances"],
        "pareto": ["front", "hypervolume", "hypervolume_history", "non_dominated"],
        "winner": ["best_config", "pick"],
        "plots": ["plot_front", "plot_hypervolume", "plot_importances", "plot_parallel"],
        "proxies": ["PROXIES", "rank_correlation", "score"],
        "space": ["SearchSpace"],
        "stopping": ["FrontStopper", "Halving", "Stopper"],
        "study": ["inherits", "search", "space_of"],
        "supernet": ["Supernet", "shareable"],
        "supernet_training": ["inherited_accuracy", "train_supernet"],
        "task": ["OBJECTIVES", "SAMPLERS"],
        "trial": ["Progress", "epochs_trained"],
        "volume_stopping": ["VolumeStopper"],
    },
)
