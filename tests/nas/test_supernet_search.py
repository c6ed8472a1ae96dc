"""A search whose candidates inherit their weights."""

from pathlib import Path

import pytest

from nas import (
    FrontStopper,
    SearchSpace,
    Supernet,
    epochs_trained,
    inherited_accuracy,
    inherits,
    plot_front,
    shareable,
    train_supernet,
)
from nas.pareto import finished
from nas.trial import Progress
from tests.nas.test_study import outcome, toy_search
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return train_supernet(toy_space(), toy_data(), toy_recipe())


def inheriting(supernet: Supernet, **options: object) -> object:
    return toy_search(**({"supernet": supernet, "recipe": None} | options))


def test_accuracies_are_inherited_and_nothing_is_trained(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit.training.fit", None)
    told: list[Progress] = []
    data = toy_data()
    study = inheriting(supernet, data=data, trials=12, progress=told.append)
    for trial in finished(study):
        config = toy_space().config(trial.params)
        assert trial.values == [inherited_accuracy(supernet, config, data), _count(supernet, config)]
    assert (len(finished(study)), epochs_trained(study), len(told)) == (12, 0, 12)
    assert (told[-1].epoch, told[-1].epochs) == (0, 0)
    assert not data.test_was_read


def _count(supernet: Supernet, config: object) -> int:
    return sum(parameter.numel() for parameter in supernet.subnet(config).parameters())


def test_it_goes_on_and_only_with_the_same_weights(supernet: Supernet, tmp_path: Path) -> None:
    whole = inheriting(supernet, trials=12)
    for trials in (5, 12):
        study = inheriting(supernet, trials=trials, storage=tmp_path / "s.journal")
    assert outcome(study) == outcome(whole)
    other = train_supernet(toy_space(), toy_data(), toy_recipe(), between=1)
    with pytest.raises(InputError, match=r"supernet\.weights is .* there"):
        inheriting(other, trials=12, storage=tmp_path / "s.journal")
    with pytest.raises(InputError, match=r"supernet is .* there and null here"):
        toy_search(trials=12, storage=tmp_path / "s.journal")


def test_the_front_says_where_its_accuracies_are_from(supernet: Supernet) -> None:
    study = inheriting(supernet, trials=3)
    assert inherits(study)
    assert "with the weights of a supernet" in plot_front(study).axes[0].get_title()
    trained = toy_search(trials=1)
    assert not inherits(trained)
    assert "supernet" not in plot_front(trained).axes[0].get_title()


def test_two_workers_share_one(supernet: Supernet, tmp_path: Path) -> None:
    study = inheriting(supernet, trials=6, storage=tmp_path / "s.journal", workers=2)
    for trial in finished(study):
        assert trial.values[0] == inherited_accuracy(supernet, toy_space().config(trial.params), toy_data())
    assert len(finished(study)) == 6


def test_the_default_space_is_made_shareable() -> None:
    space = shareable(SearchSpace.for_image(8, 1, 10))
    assert (space.fixed["patch_size"], space.fixed["stem"]) == (2, "patch")
    assert set(space.choices) == {"dim", "depth", "heads", "mlp_ratio"}
    Supernet(space)
    assert shareable(toy_space()) == toy_space()


def test_what_makes_no_sense_is_refused(supernet: Supernet) -> None:
    for options, told in (
        ({"stopping": FrontStopper()}, "left out with stopping"),
        ({"dask": "tcp://127.0.0.1:1"}, "left out with stopping and with dask"),
        ({"recipe": toy_recipe()}, "recipe = .*left out with a supernet"),
        ({"objectives": ["params"]}, "where accuracy is an objective"),
        ({"space": SearchSpace({"dim": [4, 8]}, {**toy_space().fixed, "heads": 2})}, "the very space"),
    ):
        with pytest.raises(InputError, match=told):
            inheriting(supernet, **options)
