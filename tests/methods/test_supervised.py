import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddm_embed.methods.diffusion import Objective
from ddm_embed.methods.networks import Networks
from ddm_embed.methods.reconstruction import Autoencoder, MaskedAutoencoder
from ddm_embed.methods.supervised import Supervised
from ddm_embed.methods.views import Byol, SimClr
from ddm_embed.models.encoder import Embedding


def test_the_loss_is_the_cross_entropy_of_the_labels():
    logits = jax.random.normal(jax.random.key(0), (8, 3)) * 4
    label = jnp.array([0, 1, 2, 0, 1, 2, 0, 1])
    networks = Networks(
        encode=lambda params, image, t, visible: Embedding(image, ()), classify=lambda params, z: z @ params
    )
    objective = Supervised()
    draws = objective.draw(jax.random.key(1), logits, None, 3, None, label)
    loss, terms = objective.loss(networks, jnp.eye(3), None, logits, draws)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
    np.testing.assert_array_equal(terms.accuracy, logits.argmax(axis=1) == label)


@pytest.mark.parametrize("objective", [Objective, Autoencoder, MaskedAutoencoder, SimClr, Byol])
def test_no_other_objective_can_be_given_a_label(objective):
    assert list(inspect.signature(objective.draw).parameters) == ["self", "key", "x0", "view", "dim", "logits"]
