"""The settings of a run: defaults, file, flags, and what is refused."""

from dataclasses import fields

import pytest

from tilevit.settings import RunConfig, defaults_for, resolve
from vit.errors import InputError


def test_printed_config_reads_back_as_itself(tmp_path):
    file = tmp_path / "run.toml"
    for data in ("digits", "cifar10"):
        file.write_text(defaults_for(data).to_toml())
        assert resolve(file, {}) == defaults_for(data)


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 7\ntrials = 3\n")
    config = resolve(file, {"trials": 5, "lr": None})
    assert (config.epochs, config.trials, config.lr) == (7, 5, RunConfig().lr)


def test_the_defaults_follow_the_data():
    assert resolve(None, {"data": "cifar10"}).batch_size == defaults_for("cifar10").batch_size != RunConfig().batch_size


def test_every_setting_says_what_it_is():
    assert all(spec.metadata["help"] and spec.metadata["group"] for spec in fields(RunConfig))


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        ("epoch = 3", "key", "epochs"),
        ("epochs = 0", "epochs", "from 1 to"),
        ("epochs = 1.5", "epochs", "whole number"),
        ('epochs = "3"', "epochs", "whole number"),
        ("trials = true", "trials", "whole number"),
        ("sparsity = 1.0", "sparsity", "[0, 1)"),
        ("sparsity = -0.1", "sparsity", "[0, 1)"),
        ("sparsity = nan", "sparsity", "[0, 1)"),
        ('weights = "pot5"', "weights", "pot4"),
        ('probabilities = "log3"', "probabilities", "uniform, log2"),
        ('scope = "globl"', "scope", "did you mean 'global'"),
        ('stems = ["patches"]', "stems", "patch"),
        ('pools = ["max"]', "pools", "cls, mean, seq"),
        ("dims = []", "dims", "at least one"),
        ("dims = [64, -1]", "dims", "from 1 to"),
        ("dims = 64", "dims", "list"),
        ("data = 3", "data", "string"),
        ("epochs = = 3", "config", "line 1"),
    ],
)
def test_bad_settings_are_told_in_one_line(tmp_path, text, field, hint):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError) as refusal:
        resolve(file, {})
    message = str(refusal.value)
    assert "\n" not in message
    assert field in message
    assert hint in message


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no\.toml"):
        resolve(tmp_path / "no.toml", {})
