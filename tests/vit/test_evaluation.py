from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vit.device import resolve_device
from vit.errors import InputError
from vit.evaluation import evaluate
from vit.image_set import DataSplits
from vit.zoo import create_model


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_accuracy_loss_and_predictions(stripes: DataSplits, batch_size: int) -> None:
    torch.manual_seed(0)
    model = create_model({"patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "drop_path": 0.5}, 3, 8, 1).train()
    result = evaluate(model, stripes.val, batch_size=batch_size)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(stripes.val.floats())
    assert torch.equal(result.predictions, logits.argmax(dim=1))
    assert result.accuracy == pytest.approx(float((logits.argmax(dim=1) == stripes.val.labels).float().mean()))
    assert result.loss == pytest.approx(float(F.cross_entropy(logits, stripes.val.labels)), rel=1e-5)


def test_a_failing_model_keeps_its_mode(stripes: DataSplits) -> None:
    model = nn.Linear(3, 2).train()
    with pytest.raises(RuntimeError):
        evaluate(model, stripes.val)
    assert model.training
    with pytest.raises(InputError, match="batch_size"):
        evaluate(model, stripes.val, batch_size=0)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for asked, message in (("cuda", "no CUDA GPU"), ("cuda:0", "no CUDA GPU"), ("gpu", "one of"), ("cpu:1", "cuda:N")):
        with pytest.raises(InputError, match=message) as caught:
            resolve_device(asked)
        assert caught.value.field == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device(torch.device("cuda:1")) == torch.device("cuda", 1)
    with pytest.raises(InputError, match="torch sees cuda:0, cuda:1"):
        resolve_device("cuda:2")
