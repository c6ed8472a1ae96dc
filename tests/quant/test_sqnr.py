"""The table of what each scheme loses: the published figures, and what they say about pot6."""

from __future__ import annotations

import pytest

from quant.sqnr import main, sqnr_table

PUBLISHED = {"pot4": 14.25, "pot6": 14.3, "apot6": 27.3}


def test_published_figures_on_gaussian_weights(capsys) -> None:
    rows = {row.scheme: row for row in sqnr_table()}
    for scheme, decibel in PUBLISHED.items():
        assert rows[scheme].gaussian_db == pytest.approx(decibel, abs=0.15)
    assert rows["pot6"].gaussian_db < rows["pot4"].gaussian_db + 0.1
    assert rows["apot6"].gaussian_db > rows["apot4"].gaussian_db + 6
    main()
    shown = capsys.readouterr().out
    assert all(
        f"| {scheme} | {row.bits} | {row.levels} | {row.gaussian_db:.1f} |" in shown for scheme, row in rows.items()
    )
