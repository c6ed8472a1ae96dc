"""Floor 2: the Vision Transformer, its data, training, distillation, profile and checkpoints."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "checkpoint": ["Checkpoint", "load_checkpoint", "save_checkpoint"],
        "config": ["ViTConfig"],
        "data": ["load_data"],
        "device": ["resolve_device"],
        "distillation": ["distill"],
        "errors": ["InputError"],
        "evaluation": ["Evaluation", "evaluate"],
        "image_set": ["DataSplits", "ImageSet"],
        "layers": ["LayerInfo", "describe"],
        "memory": ["peak_memory", "process_memory"],
        "model": ["VisionTransformer"],
        "profile": ["Deployed", "Profile", "profile_model", "profile_models"],
        "recipe": ["Recipe"],
        "training": ["Batch", "FitResult", "cross_entropy", "fit"],
        "zoo": ["create_model", "timm_config"],
    },
)
