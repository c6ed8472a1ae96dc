"""How well each scheme represents weights: the table of docs/quant.md, printed by `python -m quant.sqnr`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import nearest
from quant.level_sets import SCHEMES, bits_of, levels

_VALUES = 1 << 16


@dataclass(frozen=True)
class Sqnr:
    """One row of the table.

    Attributes:
        scheme: its name.
        bits: of a code.
        levels: how many.
        gaussian_db, laplace_db: signal to quantisation noise, 10 log10(E[w^2] / E[(w - w^)^2]), of weights of that
            distribution at the scale that is best for it.
    """

    scheme: str
    bits: int
    levels: int
    gaussian_db: float
    laplace_db: float


def sqnr_table() -> list[Sqnr]:
    """Every scheme's signal-to-noise ratio on Gaussian and Laplace weights, decibels.

    The weights are 65,536 quantiles of the distribution, evenly spaced in probability: nothing is random. The scale is
    the best of a grid that is refined to 1/64 of an octave.
    """
    from scipy import stats

    places = (np.arange(_VALUES) + 0.5) / _VALUES
    gaussian, laplace = (d.ppf(places).astype(np.float32) for d in (stats.norm, stats.laplace))
    return [Sqnr(s, bits_of(s), len(levels(s)), _best(gaussian, s), _best(laplace, s)) for s in SCHEMES]


def _best(w: NDArray[np.float32], scheme: str) -> float:
    """Decibels at the best scale."""
    top = float(np.abs(w).max()) / float(levels(scheme)[-1])
    centre, found = -2.0, -np.inf
    for step in (0.25, 0.0625, 0.015625):
        tried = centre + step * np.arange(-8, 9)
        results = [_decibel(w, np.float32(top * 2.0**t), scheme) for t in tried]
        centre, found = tried[int(np.argmax(results))], max(found, *results)
    return found


def _decibel(w: NDArray[np.float32], scale: np.float32, scheme: str) -> float:
    noise = np.square(nearest(w / scale, scheme) * scale - w).mean(dtype=np.float64)
    return float(10 * np.log10(np.square(w).mean(dtype=np.float64) / noise))


def main() -> None:
    """Print the table as Markdown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = sqnr_table()
    print("| scheme | bits | levels | Gaussian, dB | Laplace, dB |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.scheme} | {row.bits} | {row.levels} | {row.gaussian_db:.1f} | {row.laplace_db:.1f} |")


if __name__ == "__main__":
    main()
