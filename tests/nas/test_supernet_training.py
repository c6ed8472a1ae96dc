import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nas import SearchSpace, Supernet, inherited_accuracy, train_supernet
from nas.supernet_training import Sandwich
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import Batch, InputError, evaluate

RECIPE = replace(toy_recipe(), epochs=3)


def weights(supernet: Supernet) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in supernet.state_dict().values()])


def test_a_step_teaches_the_smallest_and_the_drawn_by_the_largest() -> None:
    torch.manual_seed(0)
    supernet = Supernet(toy_space())
    data = toy_data()
    labels = data.train.labels
    batch = Batch(data.train.floats(), labels, labels, torch.arange(len(labels)), 0, label_smoothing=0.1)
    torch.manual_seed(5)
    loss = Sandwich(between=3)(supernet, batch)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in supernet.named_parameters()}

    supernet.zero_grad()
    torch.manual_seed(5)
    drawn = supernet.sample(3, int(torch.randint(2**31, ())))
    logits = supernet(batch.images)
    taught = logits.detach().softmax(dim=1)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    for config in [supernet.smallest, *drawn]:
        said = supernet(batch.images, config).log_softmax(dim=1)
        expected = expected + (taught * (taught.log() - said)).sum(dim=1).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, weight in supernet.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


def test_all_candidates_learn_at_once() -> None:
    recipe = replace(RECIPE, epochs=15)
    told: list[dict[str, float]] = []
    supernet = train_supernet(toy_space(), toy_data(), recipe, on_epoch=told.append)
    assert [row["epoch"] for row in told] == list(range(1, 16))
    accuracies = {config: inherited_accuracy(supernet, config, toy_data()) for config in supernet.candidates}
    assert accuracies[supernet.largest] == told[-1]["val_accuracy"] >= 0.9
    assert sum(accuracies.values()) / len(accuracies) >= 0.8
    assert not supernet.training


def test_an_inherited_accuracy_is_that_of_the_subnet_on_the_validation_images() -> None:
    supernet, data = train_supernet(toy_space(), toy_data(), RECIPE), toy_data()
    for config in supernet.sample(3):
        assert inherited_accuracy(supernet, config, data) == evaluate(supernet.subnet(config), data.val).accuracy
    assert not data.test_was_read


def test_the_seed_decides_and_the_caller_s_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(train_supernet(toy_space(), toy_data(), RECIPE))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights(train_supernet(toy_space(), toy_data(), RECIPE)), first)
    assert not torch.equal(weights(train_supernet(toy_space(), toy_data(), replace(RECIPE, seed=1))), first)
    assert not torch.equal(weights(train_supernet(toy_space(), toy_data(), RECIPE, between=0)), first)


@pytest.mark.parametrize("stop", [1, 2])
def test_stopped_and_started_again_it_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    whole = weights(train_supernet(toy_space(), toy_data(), RECIPE))

    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_supernet(toy_space(), toy_data(), RECIPE, tmp_path, on_epoch=interrupt)
    assert torch.equal(weights(train_supernet(toy_space(), toy_data(), RECIPE, tmp_path)), whole)


def test_a_finished_one_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights(train_supernet(toy_space(), toy_data(), RECIPE, tmp_path))
    monkeypatch.setattr(Sandwich, "__call__", None)  # a step would fail
    assert torch.equal(weights(train_supernet(toy_space(), toy_data(), RECIPE, tmp_path)), first)


def test_a_folder_with_another_supernet_is_refused(tmp_path: Path) -> None:
    train_supernet(toy_space(), toy_data(), RECIPE, tmp_path)
    fewer = SearchSpace({**toy_space().choices, "mlp_ratio": [0.5, 2.0]}, toy_space().fixed)  # the same largest
    for space, recipe, between in (
        (fewer, RECIPE, 2),
        (toy_space(), replace(RECIPE, seed=1), 2),
        (toy_space(), RECIPE, 1),
    ):
        with pytest.raises(InputError, match=r"out = .*it holds a training with another"):
            train_supernet(space, toy_data(), recipe, tmp_path, between=between)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="between = -1"):
        train_supernet(toy_space(), toy_data(), RECIPE, between=-1)
    with pytest.raises(InputError, match="model = 'Supernet'"):
        train_supernet(SearchSpace({"dim": [4, 8]}, {"heads": 2}), toy_data(), RECIPE)


def test_it_needs_neither_optuna_nor_typer() -> None:
    code = (
        "import sys, nas; nas.train_supernet, nas.Supernet; sys.exit('optuna' in sys.modules or 'typer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
