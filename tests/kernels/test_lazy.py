"""Public names of the packages: each resolves, and none is hidden by a submodule of the same name."""

import importlib
import pkgutil

import pytest

from kernels.lazy import lazy_exports

PACKAGES = ("vit", "prune", "quant", "fifo_sim", "nas")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_resolves(name):
    package = importlib.import_module(name)
    assert package.__all__
    for public in package.__all__:
        assert getattr(package, public) is not None
    assert dir(package) == package.__all__


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_is_a_submodule(name):
    package = importlib.import_module(name)
    assert not set(package.__all__) & {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_a_name_that_is_also_a_submodule_is_refused():
    with pytest.raises(ValueError, match="rename the submodule"):
        lazy_exports("vit", {"config": ["config"]})


def test_an_unknown_name_is_an_attribute_error():
    getter, _, _ = lazy_exports("vit", {"config": ["ViTConfig"]})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getter("nothing")
