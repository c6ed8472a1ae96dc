"""The packed file: small, equal to the model it came from, free of torch, and safe against whatever a file may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import PackedModel, QuantConfig, convert, prepare_qat
from quant.packing import pack_codes, packed_size, unpack_codes
from quant.scales import from_bfloat16, to_bfloat16
from tests.quant.models import float_model, images, prepared_model, randomise
from tests.quant.reference import pack
from vit.config import ViTConfig
from vit.errors import InputError
from vit.image_set import ImageSet
from vit.model import VisionTransformer
from vit.tensorfile import write_tensors
from vit.zoo import create_model

pytestmark = pytest.mark.filterwarnings("ignore:pot6")


@given(bits=st.sampled_from([4, 6, 8]), data=st.data())
def test_codes_survive_packing(bits: int, data) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    packed = pack_codes(np.array(codes, np.uint8), bits)
    assert packed.tolist() == pack(codes, bits)
    assert packed.size == packed_size(len(codes), bits)
    assert unpack_codes(packed, bits, len(codes)).tolist() == codes


def test_packing_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="0 to 15 in 4 bits"):
        pack_codes(np.array([16], np.uint8), 4)
    with pytest.raises(InputError, match="2 bytes for 3 codes"):
        unpack_codes(np.zeros(3, np.uint8), 4, 3)
    with pytest.raises(InputError, match="after the last code"):
        unpack_codes(np.array([0, 16], np.uint8), 4, 3)


def test_bfloat16_is_torchs() -> None:
    values = np.exp2(np.random.default_rng(0).uniform(-60, 60, 5000)).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(from_bfloat16(to_bfloat16(values)), expected)


VARIANTS = {
    "plain": ({}, {}),
    "conv stem, SeqPool": ({"stem": "conv", "pool": "seq"}, {}),
    "mean pooling": ({"pool": "mean", "num_classes": 3}, {}),
    "pruned widths": ({"head_dim": 12, "block_heads": (2, 1), "block_hidden": (40, 24)}, {}),
    "apot4": ({}, {"weights": "apot4"}),
    "apot6": ({}, {"weights": "apot6"}),
    "pot6": ({}, {"weights": "pot6"}),
    "int8 by int4": ({}, {"weights": "int8", "activations": "int4"}),
    "mixed": ({}, {"weights": {"blocks.*.mlp": "apot6", "*": "int4"}, "activations": "int6"}),
    "float stem and head": ({}, {"skip": ["stem", "head"]}),
    "log2 probabilities": ({"pool": "mean"}, {"probabilities": "log2"}),
    "log2 probabilities by int4": ({}, {"probabilities": "log2", "activations": "int4", "power_of_two_scales": True}),
    "weights alone": ({"pool": "seq"}, {"activations": "float"}),
    "one scale a layer": ({}, {"per_channel": False}),
    "power-of-two scales": ({"stem": "conv"}, {"power_of_two_scales": True}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_file_predicts_the_same_bits_as_the_model(tmp_path: Path, variant: str) -> None:
    changes, quant = VARIANTS[variant]
    model = prepared_model(0.5, quant, **changes)
    packed = convert(model)
    packed.save(tmp_path / "model.safetensors")
    loaded = PackedModel.load(tmp_path / "model.safetensors")
    x = images(70)
    expected = model(x).detach().numpy()
    assert np.array_equal(loaded.predict(x.numpy()), expected)
    assert np.array_equal(loaded.predict(x, batch_size=7), expected)
    assert loaded.sparsity()["total"] >= 0.4


def test_timm_models_pack_too() -> None:
    options = {"timm": "deit_tiny_patch16_224", "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = prepare_qat(randomise(create_model(options, image_size=16))).eval()
    assert np.array_equal(convert(model).predict(images()), model(images()).detach().numpy())


def test_pixels_are_normalised_as_in_training() -> None:
    model = prepared_model()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    pixels = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8)
    normalised = ImageSet(pixels, torch.zeros(30), ("a", "b"), mean, std).floats()
    packed = convert(model, mean, std)
    assert np.array_equal(packed.predict(pixels.numpy()), model(normalised).detach().numpy())


def test_size_on_disk_of_a_400k_parameter_model(tmp_path: Path) -> None:
    model = VisionTransformer(ViTConfig())
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 413_706
    convert(prepare_qat(model)).save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size <= 0.14 * 4 * parameters


def test_predicting_needs_no_torch(tmp_path: Path) -> None:
    convert(prepared_model(stem="conv", pool="seq")).save(tmp_path / "model.safetensors")
    np.save(tmp_path / "images.npy", images(3).numpy())
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\nfrom quant import PackedModel\n"
        "print(PackedModel.load('model.safetensors').predict(np.load('images.npy')).shape)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.stdout.split() == ["(3,", "10)"], result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "shape"),
        (np.zeros((3, 16, 16), np.uint8), "shape"),
        (np.zeros((2, 3, 16, 16), np.int64), "uint8"),
        (np.full((2, 3, 16, 16), np.nan, np.float32), "finite"),
    ],
)
def test_bad_images_are_named(given: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        convert(prepared_model()).predict(given)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(InputError, match="prepare_qat"):
        convert(float_model())
    broken = prepared_model()
    with torch.no_grad():
        broken.head.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        convert(broken)
    large = prepared_model()
    with torch.no_grad():
        large.norm.bias[0] = 1e6
    with pytest.raises(InputError, match="float16"):
        convert(large)
    other = prepared_model()
    other.blocks[0].attn.core = torch.nn.Identity()
    with pytest.raises(InputError, match="attention cores"):
        convert(other)


PACKED = None


def packed_model() -> PackedModel:
    global PACKED
    PACKED = PACKED or convert(prepared_model())
    return PACKED


def refused(path: Path, said: str, tensors: dict, metadata: dict) -> None:
    write_tensors(path, tensors, metadata, kind="packed model")
    with pytest.raises(InputError, match=said):
        PackedModel.load(path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("head.codes", lambda a: a[:-1], "bytes for 320 codes"),
        ("head.codes", lambda a: np.where(np.arange(a.size) == 3, np.uint8(8), a), "stands for no level"),
        ("head.codes", lambda a: a.astype(np.int16), "uint8"),
        ("head.codes", lambda a: a[None], "of shape"),
        ("head.scale", lambda a: a * 0, "positive"),
        ("head.scale", lambda a: a | 0x8000, "positive"),
        ("head.scale", lambda a: a | 0x7FFF, "finite"),
        ("head.scale", lambda a: a[:-1], "of shape"),
        ("head.bias", lambda a: a * np.float16(np.inf), "finite"),
        ("input_scales", lambda a: -a, "positive"),
        ("input_scales", lambda a: a * np.nan, "finite"),
        ("attention_scales", lambda a: a * 0, "positive"),
        ("attention_scales", lambda a: a[:1], "of shape"),
        ("pos_embed.scale", lambda a: a * np.inf, "finite"),
        ("blocks.0.norm1.weight", lambda a: a[:5], "of shape"),
        ("blocks.1.mlp.fc1.bias", None, "blocks.1.mlp.fc1.bias: present"),
        ("cls_token", None, "cls_token: present"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path: Path, name: str, change, said: str) -> None:
    tensors = dict(packed_model().tensors)
    if change is None:
        del tensors[name]
    else:
        with np.errstate(invalid="ignore"):
            tensors[name] = change(tensors[name])
    refused(tmp_path / "x.safetensors", said, tensors, packed_model().metadata)


def test_foreign_tensors_are_refused(tmp_path: Path) -> None:
    tensors = {**packed_model().tensors, "stowaway": np.zeros(1, np.float32)}
    refused(tmp_path / "x.safetensors", "stowaway", tensors, packed_model().metadata)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("config", None, "config"),
        ("config", {"dim": -1}, "dim"),
        ("config", {"depth": 10**12}, "depth"),
        ("config", {"dim": 10**9, "heads": 1}, "of shape|bytes|whole number from"),
        ("config", {"image_size": 10**9}, "of shape|bytes|whole number from"),
        ("config", {"colour": 1}, "colour"),
        ("activations", "int4000", "activations"),
        ("schemes", {}, "schemes"),
        ("schemes", [], "schemes"),
        ("schemes", {"head": "pot5"}, "scheme of head"),
        ("eps", -1, "eps"),
        ("eps", "0", "eps"),
        ("mean", [0.0], "mean"),
        ("std", [0.0, 1.0, 1.0], "std"),
        ("std", 1, "mean, std"),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path: Path, key: str, value, said: str) -> None:
    metadata = json.loads(json.dumps(packed_model().metadata))
    if key == "config" and value:
        value = {**metadata["config"], **value}
    metadata[key] = value
    refused(tmp_path / "x.safetensors", said, packed_model().tensors, metadata)
    del metadata[key]
    refused(tmp_path / "x.safetensors", f"{key}: present", packed_model().tensors, metadata)


def test_probabilities_are_checked_and_uniform_where_an_older_file_does_not_say(tmp_path: Path) -> None:
    metadata = {**packed_model().metadata, "probabilities": "log4"}
    refused(tmp_path / "x.safetensors", "probabilities", packed_model().tensors, metadata)
    del metadata["probabilities"]
    assert PackedModel(packed_model().tensors, metadata).probabilities == "uniform"
    alone = convert(prepared_model(quant={"activations": "float"}))
    refused(tmp_path / "x.safetensors", "probabilities", alone.tensors, {**alone.metadata, "probabilities": "log2"})


def test_a_scheme_that_lies_about_its_codes_is_refused(tmp_path: Path) -> None:
    metadata = json.loads(json.dumps(packed_model().metadata))
    metadata["schemes"]["head"] = "apot6"
    refused(tmp_path / "x.safetensors", "240 bytes for 320 codes", packed_model().tensors, metadata)


def test_absent_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing"):
        PackedModel.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="damaged or foreign"):
        PackedModel.load(tmp_path / "text.safetensors")


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_refused_whatever_was_hit(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("damage")
    packed_model().save(folder / "x.safetensors")
    content = bytearray((folder / "x.safetensors").read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "append"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        del content[at:]
    elif kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content[at if kind == "insert" else len(content) :] += data.draw(st.binary(min_size=1, max_size=9))
    (folder / "x.safetensors").write_bytes(bytes(content))
    with pytest.raises(InputError):
        PackedModel.load(folder / "x.safetensors")


def test_quant_config_travels_through_json() -> None:
    config = QuantConfig(weights={"head": "int8", "*": "pot4"}, activations="int6", skip=["stem"], probabilities="log2")
    assert QuantConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
