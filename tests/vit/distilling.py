"""What the tests of distillation share: tiny models, a teacher that counts, one short distillation."""

import torch
from torch import nn

from vit import Recipe, VisionTransformer, ViTConfig, distill

CLASSES, IMAGES = 3, 60  # of the fixture `stripes`
SHAPE = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": CLASSES, "depth": 1, "heads": 2}
MIXED = Recipe(epochs=3, batch_size=20, lr=3e-3, crop_padding=1, flip=True, mixup=0.4, cutmix=0.4)
PLAIN = Recipe(epochs=1, batch_size=IMAGES, crop_padding=0, ema=0)
TIMM = {
    "vit": {"timm": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "deit": {"timm": "deit_tiny_distilled_patch16_224", "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "mobilevit": {"timm": "mobilevit_xxs"},
}


def model_of(dim=8, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VisionTransformer(ViTConfig(**{**SHAPE, "dim": dim, **changes})).eval()


class Counted(nn.Module):
    """A teacher that counts how often it is asked; the first time is distill's look at its shape."""

    def __init__(self, model):
        super().__init__()
        self.model, self.head, self.asked = model, model.head, 0

    def forward(self, images):
        self.asked += 1
        return self.model(images)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def distilled(stripes, teacher, out=None, seed=5, dim=8, recipe=MIXED, **options):
    """The history and weights of a fresh student."""
    student = model_of(dim, seed)
    result = distill(student, stripes, recipe, out, teacher=teacher, **options)
    assert not student.training
    losses = [(row["train_loss"], row["val_loss"], row["val_accuracy"]) for row in result.history]
    return losses, weights_of(student)
