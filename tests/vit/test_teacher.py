"""Teachers: what a model says in one pass, and where a teacher comes from."""

import logging

import pytest
import torch
from torch.nn import functional as F

from tests.vit.distilling import CLASSES, PLAIN, TIMM, distilled, model_of, same
from vit import InputError
from vit import save_checkpoint as save
from vit.teacher import Teacher, answer, take_pretrained
from vit.zoo import create_model


@pytest.mark.parametrize("pool", ["cls", "mean", "seq"])
def test_features_of_our_models_enter_the_head(pool):
    model, images = model_of(pool=pool), torch.randn(3, 1, 8, 8)
    said = answer(model, images)
    assert torch.equal(said.features, model.pool(model.forward_features(images)))
    assert torch.equal(said.logits, model(images))
    assert not model.head._forward_hooks


@pytest.mark.parametrize("kind", TIMM)
def test_features_of_timm_models_are_their_pre_logits(kind):
    model = create_model(TIMM[kind], CLASSES, 32 if kind == "mobilevit" else 8, 3).eval()
    images = torch.randn(2, 3, 32, 32) if kind == "mobilevit" else torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        said = answer(model, images)
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(said.features, expected)
        torch.testing.assert_close(torch.stack(said.by_head).mean(0), model(images))
    assert len(said.by_head) == (2 if kind == "deit" else 1)


def test_a_teacher_in_a_checkpoint(stripes, tmp_path):
    teacher = model_of(seed=2)
    save(tmp_path / "teacher.safetensors", teacher)
    for path in (tmp_path / "teacher.safetensors", str(tmp_path / "teacher.safetensors")):
        assert same(distilled(stripes, path)[1], distilled(stripes, teacher)[1])


def test_a_checkpoint_of_a_quantised_model_is_no_teacher(stripes, tmp_path):
    save(tmp_path / "qat.safetensors", model_of(seed=2), kind="qat")
    with pytest.raises(InputError, match=r"qat.safetensors': allowed is the checkpoint of a float model"):
        Teacher.of(tmp_path / "qat.safetensors", stripes)


def test_a_teacher_gets_images_of_its_size(stripes):
    model, images = model_of(seed=2, image_size=16), stripes.train.floats()
    said = Teacher.of(model, stripes)(images)
    expected = model(F.interpolate(images, (16, 16), mode="bilinear", antialias=True))
    torch.testing.assert_close(said.logits, expected)
    distilled(stripes, model)


def test_a_timm_name_is_a_pretrained_teacher_with_its_own_normalisation(stripes, monkeypatch):
    import timm

    model = create_model({**TIMM["vit"], "img_size": 16}, CLASSES, 16, 3)
    card = {"input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
    monkeypatch.setattr(model, "pretrained_cfg", {**model.pretrained_cfg, **card})
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or model)
    guide = Teacher.of("vit_tiny_patch16_224", stripes)
    assert asked == [("vit_tiny_patch16_224", {"pretrained": True})]
    grey = torch.full((1, 1, 8, 8), 0.7)  # as a fraction of 255
    given = guide.prepared((grey - 0.3) / 0.25)
    expected = (0.7 - torch.tensor(card["mean"])) / torch.tensor(card["std"])
    torch.testing.assert_close(given, expected.view(1, 3, 1, 1).expand(1, 3, 16, 16))
    distilled(stripes, "vit_tiny_patch16_224", recipe=PLAIN)


def test_without_a_network_a_timm_name_is_refused_in_one_line(stripes, monkeypatch):
    import timm

    def unreachable(*_, **__):
        raise OSError("cannot reach the hub\nand a traceback of its own")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(InputError, match="cannot reach the hub; or give the path of a checkpoint") as caught:
        distilled(stripes, "vit_tiny_patch16_224")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'vit_tiny_patch16_224'"):
        distilled(stripes, "vit_tinny_patch16_224")


def test_pretrained_weights_are_taken_where_they_can_be_had_the_same_each_time(monkeypatch, caplog):
    spec = {"timm": "vit_tiny_patch16_224", "patch_size": 4, "depth": 1}

    def had(wanted):
        assert wanted["pretrained"] is True
        return create_model({name: value for name, value in wanted.items() if name != "pretrained"})

    monkeypatch.setattr("vit.teacher.create_model", had)
    models = [create_model(spec, CLASSES, 8, 1) for _ in range(2)]
    before = torch.random.get_rng_state()
    assert [take_pretrained(model) for model in models] == ["", ""]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(*(model.state_dict() for model in models))
    assert take_pretrained(model_of()) == "it is not timm's"

    def offline(wanted):
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network\nand more")

    monkeypatch.setattr("vit.teacher.create_model", offline)
    kept = models[0].head.weight.clone()
    assert take_pretrained(models[0]) == "no network"
    assert not caplog.records  # of attempts nobody has to read
    logging.getLogger("huggingface_hub.utils").warning("heard again")
    assert caplog.messages == ["heard again"]
    assert torch.equal(models[0].head.weight, kept)
