import functools
import itertools

import numpy as np
import pytest
from conftest import run_once, tiny_config
from matplotlib.figure import Figure

from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.features.run import open_run
from ddm_embed.sample.generate import Shown
from ddm_embed.sample.pictures import PICTURES, obstacle

REFUSED = [
    ("reconstructions", {"embedding.input": "none"}, "has no encoder; train one with --config.embedding.input=x0"),
    ("wrong_z", {"embedding.input": "none"}, "has no encoder"),
    ("one_z", {"diffusion.timesteps": "fixed", "diffusion.fixed_t": 0.3}, "trained at t=0.3 alone; train one with"),
    ("trajectory", {"diffusion.timesteps": "fixed"}, "needs the score at every t"),
    ("code_scatter", {"embedding.dim": 256}, "this run's has 256; train one with --config.embedding.dim=2"),
    ("code_grid", {"embedding.dim": 2}, "lie on a circle; train one with --config.embedding.sphere=False"),
    ("code_scatter", {"objective.name": "vae"}, "this run's objective is vae; train one with --config.objective.name="),
    ("loss", {"objective.name": "mae"}, "made with a diffusion model's denoiser"),
    ("samples", {}, "train one with --config.embedding.drop=0.1, or see --picture=one_z"),
    (
        "inversion",
        {"sampler": "langevin"},
        "langevin adds noise; use a --config.sampler of ddim, euler, heun, dpmpp_2m",
    ),
]
ALLOWED = [
    ("loss", {"embedding.input": "none", "diffusion.timesteps": "fixed"}),
    ("wrong_z", {"diffusion.timesteps": "fixed"}),
    ("code_scatter", {"embedding.dim": 2}),
    ("code_grid", {"embedding.dim": 2, "embedding.sphere": False}),
    ("samples", {"embedding.input": "none"}),
    ("samples", {"embedding.drop": 0.1}),
    ("wrong_z", {"times": (0.2, 0.9), "diffusion.process": "rectified_flow"}),
]


def ask(name, changes):
    config = config_lib.sample_default()
    config.update({field: value for field, value in changes.items() if field in config})
    run = tiny_config(**{field: value for field, value in changes.items() if field not in config})
    return obstacle(PICTURES[name], run, config)


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_a_run_does_not_allow_is_refused_with_the_reason_and_the_mend(name, changes, message):
    assert message in ask(name, changes)


@pytest.mark.parametrize(("name", "changes"), ALLOWED)
def test_what_a_run_allows_is_not_refused(name, changes):
    assert ask(name, changes) is None


def finished(tmp_path_factory, which):
    """One of `RUNS`, short, and 4 digits and 60 others to show of it."""
    config = tiny_config(**RUNS[which], **{"train.steps": 10})
    _, workdir = run_once(tmp_path_factory, f"shown_{which}", config)
    source = open_source(config)
    images = source.train.images[np.arange(64)].astype(np.float32) / 127.5 - 1
    trained = open_run(workdir)
    return trained, Shown(images[:4], images[4:], source.train.read_labels()[4:64], source.classes, beside=(trained,))


# Runs that between them allow every picture: a flat Gaussian code of 2 entries; codes withheld now and then, of noised
# images under an exploding process.
RUNS = (
    {"embedding.dim": 2, "embedding.sphere": False, "embedding.gaussian": True},
    {"embedding.drop": 0.2, "embedding.input": "xt", "diffusion.process": "ve", "diffusion.steps": 0},
)
QUICK = [(0, "wrong_z"), (0, "code_grid")]  # the others are of the slow stage


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that trains one of `RUNS` when it is first asked for."""
    return functools.cache(functools.partial(finished, tmp_path_factory))


@pytest.mark.parametrize(
    ("which", "name"),
    [
        pytest.param(which, name, marks=() if (which, name) in QUICK else pytest.mark.slow)
        for which in (0, 1)
        for name in PICTURES
    ],
)
def test_every_picture_is_titled_and_nothing_leaves_its_frame(name, which, runs):
    trained, shown = runs(which)
    config = config_lib.sample_default()
    config.steps, config.images, config.samples = 3, 4, 2
    if obstacle(PICTURES[name], trained.config, config):
        assert obstacle(PICTURES[name], runs(1 - which)[0].config, config) is None
        return
    figure = PICTURES[name].draw(trained, shown, config)
    words = [
        figure.get_suptitle(),
        figure.axes[0].get_title(),
        *(t.get_text() for t in figure.axes[0].get_xticklabels()),
    ]
    assert isinstance(figure, Figure) and any("tiny" in text for text in words)
    figure.draw_without_rendering()
    frame = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < frame.width + 1 and box.y1 < frame.height + 1, name
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(labels)), name


def test_a_scatter_shows_every_image_and_tells_classes_apart(runs):
    trained, shown = runs(0)
    config = config_lib.sample_default()
    plain = PICTURES["code_scatter"].draw(trained, shown._replace(labels=None), config)
    assert plain.axes[-1].get_legend() is None
    far = PICTURES["code_scatter"].draw(trained, shown._replace(labels=shown.labels * 37 + 100, names=None), config)
    many = PICTURES["code_scatter"].draw(trained, shown._replace(labels=np.arange(60), names=None), config)
    assert "60 classes" in many.get_suptitle() and many.axes[-1].get_legend() is None
    for figure, classes in ((plain, 1), (far, 10), (many, 60)):
        lines = figure.axes[0].get_lines()
        assert sum(len(line.get_xdata()) for line in lines) == 60
        assert len({tuple(line.get_color()) for line in lines}) == classes
