"""All figures: in notebooks and dark styles, and nothing global touched."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from langchain_rerank.evaluation import (
    plot_measures,
    plot_rank_movement,
    plot_scores,
    plot_tradeoff,
)
from tests.evaluation.plots.figures import reranked, timed


def test_a_notebook_shows_a_figure_without_pyplot(report):
    figure = plot_measures(report)
    image, size = figure._repr_png_()
    assert isinstance(figure, Figure)
    assert image.startswith(b"\x89PNG")
    width, height = (figure.get_size_inches() * figure.dpi).astype(int)
    assert size == {"width": width, "height": height}
    assert int.from_bytes(image[16:20]) == pytest.approx(2 * width, abs=2)


def test_a_dark_style_is_followed(report):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black"}):
        figures = [
            *(plot_rank_movement(given, "q"), plot_measures(given)),
            *(plot_tradeoff(given), plot_scores(given, threshold=0.5)),
        ]
        for figure in figures:
            texts = [text for text in figure.findobj(Text) if text.get_text()]
            assert not any(to_hex(text.get_color()) == "#000000" for text in texts if text.axes)


def test_pyplot_is_not_imported_and_settings_stay(report, tmp_path):
    given = timed(reranked(report), one=({"total": 40}, 0.5))
    (tmp_path / "report.json").write_text(given.to_json())
    code = """
import sys, pathlib
from langchain_rerank.evaluation import *
assert "matplotlib" not in sys.modules
report = Report.from_json(pathlib.Path(sys.argv[1]).read_text())
import matplotlib
# Looking up the backend imports pyplot.
names = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in names]
figures = [plot_rank_movement(report, "q"), plot_measures(report), plot_tradeoff(report),
           plot_scores(report, threshold=0.5)]
for figure in figures:
    figure._repr_png_()
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
print(len(figures))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "report.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("4", "")


def test_a_missing_matplotlib_is_named(report, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "langchain-rerank\[eval\]"'):
        plot_measures(report)
