import itertools

import numpy as np
import pytest
from conftest import tiny_config
from matplotlib.figure import Figure

from ddm_embed import config as config_lib
from ddm_embed.data.source import open_source
from ddm_embed.decode.needs import NEEDS, obstacle
from ddm_embed.decode.pictures import PICTURES, Shown
from ddm_embed.train.loop import train
from ddm_embed.trained import restore

REFUSED = [
    ("reconstructions", {"embedding.input": "none"}, "has no encoder; train one with --config.embedding.input=x0"),
    ("wrong_z", {"embedding.input": "none"}, "has no encoder"),
    ("one_z", {"diffusion.timesteps": "fixed", "diffusion.fixed_t": 0.3}, "trained at t=0.3 alone; train one with"),
    ("trajectory", {"diffusion.timesteps": "fixed"}, "needs the score at every t"),
    ("code_scatter", {"embedding.dim": 256}, "this run's has 256; train one with --config.embedding.dim=2"),
    ("code_grid", {"embedding.dim": 2}, "lie on a circle; train one with --config.embedding.sphere=False"),
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
]


def ask(name, changes):
    config = config_lib.sample_default()
    config.sampler = changes.get("sampler", "ddim")
    run = tiny_config(**{field: value for field, value in changes.items() if field != "sampler"})
    return obstacle(PICTURES[name].needs, run, config)


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_a_run_does_not_allow_is_refused_with_the_reason_and_the_mend(name, changes, message):
    assert message in ask(name, changes)


@pytest.mark.parametrize(("name", "changes"), ALLOWED)
def test_what_a_run_allows_is_not_refused(name, changes):
    assert ask(name, changes) is None


def test_needs_are_known_by_name():
    assert all(need in NEEDS for picture in PICTURES.values() for need in picture.needs)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A run that allows every picture: a Gaussian code of 2 entries off the sphere, withheld now and then."""
    changes = {"embedding.dim": 2, "embedding.sphere": False, "embedding.gaussian": True, "embedding.drop": 0.2}
    config, workdir = tiny_config(**changes, **{"train.steps": 10}), tmp_path_factory.mktemp("plane") / "run"
    assert train(config, workdir).finished
    source = open_source(config)
    images = source.train.images[np.arange(60)].astype(np.float32) / 127.5 - 1
    trained = restore(config, workdir, source.image_shape)
    return trained, Shown(images[:4], images, source.train.read_labels()[:60], beside=(trained,))


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_titled_and_nothing_leaves_its_frame(name, plane):
    trained, shown = plane
    config = config_lib.sample_default()
    config.steps, config.images, config.samples, config.times = 3, 4, 2, (0.2, 0.5, 0.9)
    assert obstacle(PICTURES[name].needs, trained.config, config) is None
    figure = PICTURES[name].draw(trained, shown, config)
    assert isinstance(figure, Figure) and "tiny" in (figure.get_suptitle() or figure.axes[0].get_title())
    figure.draw_without_rendering()
    frame = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < frame.width + 1 and box.y1 < frame.height + 1, name
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(labels)), name


def test_without_labels_the_scatter_has_no_legend(plane):
    trained, shown = plane
    figure = PICTURES["code_scatter"].draw(trained, shown._replace(labels=None), config_lib.sample_default())
    assert figure.axes[-1].get_legend() is None
