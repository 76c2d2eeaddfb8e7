import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from ddm_embed import arms, methods
from ddm_embed.config import default, probe_default
from ddm_embed.data import sources
from ddm_embed.data.types import Source, Split, read_all
from ddm_embed.methods.method import Networks
from ddm_embed.methods.supervised import Supervised
from ddm_embed.models.encoder import Embedding
from ddm_embed.probe.evaluate import to_choose_by


def test_the_loss_is_the_cross_entropy_of_the_labels():
    logits = jax.random.normal(jax.random.key(0), (8, 3)) * 4
    label = jnp.array([0, 1, 2, 0, 1, 2, 0, 1])
    networks = Networks(
        encode=lambda params, image, t: Embedding(image, ()), heads={"classifier": lambda params, z: z @ params}
    )
    objective = Supervised()
    draws = objective.draw(jax.random.key(1), logits, None, 3, label=label)
    loss, terms = objective.loss(networks, jnp.eye(3), None, logits, draws)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
    np.testing.assert_array_equal(terms.accuracy, logits.argmax(axis=1) == label)


@pytest.mark.parametrize("method", [m for m in methods.all_methods() if m.trains], ids=lambda m: m.name)
def test_no_other_objective_can_be_given_a_label(method):
    objective = method.objective(tiny_config())
    assert (
        ("label" in inspect.signature(objective.draw).parameters)
        == method.reads_labels
        == (method.name == "supervised")
    )


@pytest.mark.parametrize("number, most", [(100, 40), (100, 1000), (7, 5)])
def test_the_probe_chooses_by_images_that_a_supervised_run_was_not_trained_on(number, most, monkeypatch):
    images = np.arange(number, dtype=np.uint8).reshape(-1, 1, 1, 1)
    whole = Source("made", Split(images, lambda: np.arange(number) % 2), None, None)
    monkeypatch.setitem(sources.KINDS, "made", sources.Kind("made", lambda rest, data: whole, False))
    config = default()
    config.data.name, config.data.test_fraction = "made", 0.0
    assert sources.open_source(config) is whole  # other methods, and runs from before there was the field
    arms.apply("supervised", config)
    source = sources.open_source(config)
    trained_on, apart = (set(read_all(split.images, 1).ravel().tolist()) for split in (source.train, source.validation))
    assert not trained_on & apart and trained_on | apart == set(range(number))
    probe = probe_default()
    probe.selection_images = most
    train, validation, fit, held = to_choose_by(source, probe)
    assert (
        set(read_all(validation.images, 1).ravel().tolist()) <= apart
        and set(read_all(train.images, 1).ravel().tolist()) <= trained_on
    )
    assert fit + held == min(number, most) and held == round(0.2 * min(number, most))  # as of any other run
    assert len(train) + len(validation) == number
