import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from ddm_embed import methods
from ddm_embed.methods.method import Networks
from ddm_embed.methods.supervised import Supervised
from ddm_embed.models.encoder import Embedding


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
