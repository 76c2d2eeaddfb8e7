import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from ddm_embed import drawing
from ddm_embed.drawing import LINE_COLOURS, TRACE, image_grid


def rows_of(picture):
    """Where each column of a picture of one channel is darkest, and 255 less how dark."""
    dark = 255 - picture.mean(axis=-1)
    return dark.argmax(axis=0), dark.max(axis=0)


def test_a_line_follows_the_values():
    ramp = np.linspace(-1, 1, 64, dtype=np.float32)[None, :, None]
    rows, dark = rows_of(drawing.draw_lines(ramp, 33, 64, reach=1.0)[0])
    np.testing.assert_allclose(rows, np.linspace(32, 0, 64), atol=1)
    assert dark.min() > 150


def test_the_line_of_a_steep_signal_is_not_broken_and_long_ones_keep_their_peaks():
    square = np.tile(np.repeat([-1.0, 1.0], 8), 4).astype(np.float32)[None, :, None]
    picture = drawing.draw_lines(square, 32, 64, reach=1.0)[0]
    columns = (picture.mean(axis=-1) < 128).sum(axis=0)
    assert columns.max() > 25  # the edge, from top to bottom
    spike = np.zeros((1, 10_000, 1), np.float32)
    spike[0, 5000] = 3
    rows = (drawing.draw_lines(spike, 33, 64, reach=3.0)[0].mean(axis=-1) < 200).any(axis=1)
    assert rows[0]


def test_channels_have_colours_of_their_own_and_what_is_beyond_runs_along_the_edge():
    two = np.stack([np.full(16, 0.5), np.full(16, 9.0)], axis=-1)[None].astype(np.float32)
    picture = drawing.draw_lines(two, 40, 16, reach=1.0)[0]
    assert tuple(picture[10, 8]) == LINE_COLOURS[0] or np.allclose(picture[10, 8], LINE_COLOURS[0], atol=60)
    assert np.allclose(picture[0, 8], LINE_COLOURS[1], atol=40)


def test_one_sample_many_channels_and_nothing_at_all_are_drawn():
    assert drawing.draw_lines(np.zeros((2, 1, 1), np.float32), 16, 32).shape == (2, 16, 32, 3)
    assert drawing.draw_lines(np.ones((1, 5, 768), np.float32), 16, 32).shape == (1, 16, 32, 3)
    assert np.all(drawing.draw_lines(np.full((1, 8, 2), np.nan, np.float32), 16, 32) == 255)


def test_a_grid_of_sequences_is_a_figure_of_lines():
    grid = np.random.default_rng(0).normal(size=(2, 3, 1, 50, 2))
    grid[0, 0] = np.nan
    figure = image_grid(grid, ["a", "b", "c"], None, "title")
    canvas = figure.axes[0].images[0].get_array()
    assert canvas.shape[-1] == 3 and canvas.shape[0] > 2 * TRACE[0] and np.all(canvas[: TRACE[0], : TRACE[1]] == 1)


@pytest.mark.parametrize("name", ["$x^{$", "$\\frac$ b$", "a$b_$", "$x$", "50 % \\alpha_{"])
def test_a_name_is_never_mathematics(name):
    with matplotlib.rc_context({"text.usetex": name == "$x$"}):  # as a user's own settings may have it
        figure = image_grid(np.zeros((1, 2, 4, 4, 1)), [name, "b"], [name], name)
        assert drawing.png(figure).startswith(b"\x89PNG")
    drawn = [text for text in figure.findobj(Text) if name in text.get_text()]
    assert len(drawn) >= 3 and not any(text.get_parse_math() or text.get_usetex() for text in drawn)
