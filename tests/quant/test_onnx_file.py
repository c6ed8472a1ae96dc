"""ONNX files are opened for their accuracy: what they say of their images is heeded, and what is none is refused."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import helper

from quant import OnnxFile, export_onnx
from tests.quant.models import prepared_model
from vit.errors import InputError
from vit.image_set import ImageSet
from vit.preprocessing import Normalisation, note_normalisation

OWN = Normalisation((0.25, 0.5, 0.5), (0.5, 0.5, 0.25))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = prepared_model()
    note_normalisation(model, OWN)
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    export_onnx(model, path)
    return model, path


def test_the_file_says_what_it_takes_and_how_it_is_normalised(file):
    model, path = file
    opened = OnnxFile(path)
    shape = opened.in_channels, opened.image_size, opened.num_classes
    assert shape == (model.config.in_channels, model.config.image_size, model.config.num_classes)
    assert opened.normalisation == OWN
    pixels = torch.randint(0, 256, (70, *shape[:1], shape[1], shape[1]), dtype=torch.uint8)
    names = tuple(map(str, range(shape[2])))
    own = ImageSet(pixels, torch.zeros(70, dtype=torch.int64), names, OWN.mean, OWN.std)
    others = ImageSet(pixels, model(own.floats()).argmax(1), names, (0.9, 0.9, 0.9), (0.1, 0.1, 0.1))
    assert opened.accuracy(others) == 1  # whatever the images say
    export_onnx(model, path.with_name("sixteen.onnx"), batch=16)
    assert OnnxFile(path.with_name("sixteen.onnx")).accuracy(others) == 1  # the last ones are fewer


def test_what_is_no_such_file_is_refused_in_one_line(file, tmp_path):
    _, path = file
    other = tmp_path / "other.onnx"
    with pytest.raises(InputError, match="allowed is an ONNX file that is there"):
        OnnxFile(other)
    other.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="an ONNX file that onnxruntime can run") as told:
        OnnxFile(other)
    assert "\n" not in str(told.value)
    proto = onnx.load(path)
    for field, value, words in (("mean", "[]", "no mean and deviation"), ("std", "{", "mean and std of its channels")):
        said = {"mean": "[0.5]", "std": "[0.5]", field: value}
        del proto.metadata_props[:]
        helper.set_model_props(proto, said)
        onnx.save(proto, other)
        with pytest.raises(InputError, match=words):
            OnnxFile(other)
    proto.graph.input[0].name = "pixels"
    for node in proto.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    onnx.save(proto, other)
    with pytest.raises(InputError, match="a file of one input, images"):
        OnnxFile(other)
