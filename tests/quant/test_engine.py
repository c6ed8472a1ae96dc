"""Integer kernels against int64 NumPy on every path this CPU can take, the worst case included."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import gemm
from kernels.attention import attention, attention_of
from quant import convert, exact
from quant.level_sets import level_set
from tests.quant.models import images, prepared_model
from tests.quant.reference import integer_matmul, nearest_power
from vit.errors import InputError

PATHS = gemm.supported()


def round_to(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(np.trunc(x + np.copysign(np.float32(0.49999997), x)), low, high).astype(np.int64)


@pytest.mark.parametrize("path", PATHS)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 9),
    k=st.integers(1, 70),
    n=st.integers(1, 40),
    largest=st.sampled_from([1, 64, 100, 128]),
    unsigned=st.booleans(),
)
def test_accumulators_are_exact(path: str, seed: int, m: int, k: int, n: int, largest: int, unsigned: bool) -> None:
    random = np.random.default_rng(seed)
    low, high = (0, 255) if unsigned else (-128, 127)
    a, w = random.integers(low, high + 1, (m, k)), random.integers(-largest, min(largest, 127) + 1, (n, k))
    assert np.array_equal(gemm.matmul(a, gemm.arrange(w, low, high, path=path)), integer_matmul(a, w.T))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("activation", "weight"), [(255, 64), (255, -64), (-128, -128), (255, -128), (-128, 127)])
def test_the_worst_case_is_exact(path: str, activation: int, weight: int) -> None:
    a, w = np.full((5, 4096), activation), np.full((17, 4096), weight)
    arranged = gemm.arrange(w, min(activation, 0), 255 if activation > 0 else 127, path=path)
    assert np.array_equal(gemm.matmul(a, arranged), integer_matmul(a, w.T))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["pot4", "apot4", "int4"])
def test_codes_decoded_inside_the_kernel(path: str, scheme: str) -> None:
    tables = level_set(scheme)
    random = np.random.default_rng(0)
    codes = random.choice(np.flatnonzero(tables.valid), (50, 37)).astype(np.uint8)
    arranged = gemm.arrange(tables.by_code[codes], -128, 127, codes=codes, table=tables.by_code, path=path)
    assert path == "portable" or arranged.kind == gemm.FOUR_BIT
    a = random.integers(-128, 128, (9, 37))
    assert np.array_equal(gemm.matmul(a, arranged), integer_matmul(a, tables.by_code[codes].T))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [1, 3, 64, 130])
def test_linear_is_one_multiplication_and_one_addition_after_the_sum(path: str, rows: int) -> None:
    random = np.random.default_rng(0)
    x, w = (random.normal(size=(rows, 96)) * 90).astype(np.float32), random.integers(-64, 65, (50, 96))
    scale, bias = random.normal(size=50).astype(np.float32), random.normal(size=50).astype(np.float32)
    out = gemm.linear(x, gemm.Layer(gemm.arrange(w, -128, 127, path=path), np.float32(0.7), scale, bias))
    sums = integer_matmul(round_to(x / np.float32(0.7), -128, 127), w.T)
    assert np.array_equal(out, sums.astype(np.float32) * scale + bias)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("log2", [False, True])
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (7, 5), (17, 8), (65, 32), (33, 17)])
def test_attention_is_the_definition_step_by_step(path: str, log2: bool, tokens: int, width: int) -> None:
    heads, count = 3, 2
    random = np.random.default_rng(0)
    qkv = random.normal(size=(count, tokens, 3 * heads * width)).astype(np.float32)
    scales = np.array([0.02, 0.03, 0.04], np.float32)
    top = 2**14 if log2 else 255
    out = attention(qkv, attention_of(heads, width, scales, -128, 127, top, path, log2))
    parts = qkv.reshape(count, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4)
    q, k, v = (round_to(part / scale, -128, 127) for part, scale in zip(parts, scales, strict=True))
    factor = np.float32(np.float64(scales[0]) * np.float64(scales[1]) * width**-0.5)
    scores = (q @ k.transpose(0, 1, 3, 2)).astype(np.float32) * factor
    p = exact.softmax(torch.from_numpy(scores)).numpy()
    whole = nearest_power(p * np.float32(top), 14) if log2 else round_to(p * np.float32(top), 0, top)
    context = (whole @ v).astype(np.float32) * (scales[2] / np.float32(top))
    assert np.array_equal(out, context.transpose(0, 2, 1, 3).reshape(out.shape))


@pytest.mark.parametrize("path", PATHS)
def test_a_whole_model_gives_the_same_bits_on_every_path(path: str, monkeypatch) -> None:
    model = prepared_model(0.5)
    monkeypatch.setenv(gemm.VARIABLE, path)
    packed = convert(model)
    assert packed.engine.path == path
    expected = model(images(11)).detach().numpy()
    assert np.array_equal(packed.predict(images(11)), expected)
    assert np.array_equal(packed.predict(images(11), batch_size=3, threads=3), expected)


def test_the_path_can_be_asked_for_and_a_wrong_one_is_named(monkeypatch) -> None:
    monkeypatch.setenv(gemm.VARIABLE, "portable")
    assert gemm.chosen_path() == "portable"
    monkeypatch.setenv(gemm.VARIABLE, "sse")
    with pytest.raises(ValueError, match="TILEVIT_KERNELS = 'sse': allowed on this CPU"):
        gemm.chosen_path()
    with pytest.raises(InputError, match="TILEVIT_KERNELS = 'sse'"):
        convert(prepared_model()).predict(images(1))
    monkeypatch.delenv(gemm.VARIABLE)
    assert gemm.chosen_path() == PATHS[0]


VNNI = {"vnni": ("ymm", 2 * (4 + 1)), "vnni512": ("zmm", 4 * (8 + 4 + 1))}  # registers; vectors or steps by rows


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86 instruction")
@pytest.mark.parametrize("path", VNNI)
def test_the_vnni_paths_compile_to_their_instruction(path: str) -> None:
    register, least = VNNI[path]
    program = (
        "import re\nfrom numba import int32, int64, njit\nfrom kernels import tiles\n"
        "made = njit((*[int64] * 8, int32[:, ::1]))(tiles._product.py_func)\n"
        f"print(len(re.findall('vpdpbusd.*{register}', next(iter(made.inspect_asm().values())))))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_CPU_NAME": "icelake-server"}
    environment["NUMBA_CPU_FEATURES"] = "+avx2,+avx512f,+avx512vl,+avx512bw,+avx512vnni"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert int(result.stdout or 0) >= least, result.stderr


@pytest.mark.skipif("avx2" not in PATHS, reason="the other instructions of these paths are of AVX2")
@pytest.mark.skipif(set(VNNI) <= set(PATHS), reason="the tests above run these paths")
def test_the_vnni_paths_are_exact_where_the_instruction_does_what_it_is_defined_to() -> None:
    """On a CPU without VNNI all tests of this file pass on these paths with a stand-in for the one instruction."""
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "tests.quant.vnni_stand_in", "-p", "no:cacheprovider"]
    chosen = [__file__, "-k", "vnni and not test_the_vnni_paths"]
    result = subprocess.run([*command, *chosen], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout
    for path in VNNI:
        for test in (test_accumulators_are_exact, test_a_whole_model_gives_the_same_bits_on_every_path):
            assert f"::{test.__name__}[{path}]" in result.stdout
