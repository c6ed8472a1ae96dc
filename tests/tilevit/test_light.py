"""What is imported when: a light path stays light."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "matplotlib", "optuna", "timm", "onnx", "sklearn", "scipy")


def loaded_by(code: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after running `code`."""
    probe = f"{code}\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    found: list[str] = eval(done.stderr.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import tilevit",
        "import nas, prune, quant, fifo_sim, vit, kernels",
        "from vit import ViTConfig; from vit.layers import describe; describe(ViTConfig())",
        "from fifo_sim import Pipeline, Hardware",
        "from tilevit.cli import _exit_code; _exit_code(['--help'])",
        "from tilevit.cli import _exit_code; _exit_code(['run', '--help'])",
    ],
)
def test_the_light_path_loads_nothing_heavy(code):
    assert loaded_by(code) == []


def test_the_probe_sees_what_is_heavy():
    assert "scipy" in loaded_by("import scipy")
