"""Floor 2: the Vision Transformer, its data, training, distillation, profile and checkpoints."""

from kernels.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": ["ViTConfig"],
        "errors": ["InputError"],
        "layers": ["LayerInfo", "describe"],
        "model": ["VisionTransformer"],
    },
)
