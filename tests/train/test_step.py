"""A method's loss and draws are checked while the step is traced, before anything is compiled."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from conftest import tiny_config

from ddm_embed import methods
from ddm_embed.errors import UserError
from ddm_embed.methods.build import make_models, make_networks
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import abstract_state, make_init, shardings_of
from ddm_embed.train.step import make_train_step


class Drawn(NamedTuple):
    noise: jax.Array


class Terms(NamedTuple):
    size: jax.Array


class Toy(NamedTuple):
    """What `draw` and `loss` give, of x0."""

    drawn: object = lambda x0: Drawn(x0)
    value: object = jnp.mean
    terms: object = lambda x0: Terms(jnp.mean(x0, axis=(1, 2, 3)))

    def draw(self, key, x0, view, dim):
        return self.drawn(x0)

    def loss(self, networks, params, target_params, x0, draws):
        return self.value(x0), self.terms(x0)


def trace(toy, parts):
    config = tiny_config(**{"objective.name": "autoencoder", "embedding.timed": False, "train.accumulate": parts})
    models, optimizer, mesh = make_models(config, (8, 8, 1)), make_optimizer(config), make_mesh(1, 1)
    state = abstract_state(make_init(models, optimizer, 0), optimizer, mesh)
    made = methods.of(config), toy, make_networks(models, config), optimizer, mesh, shardings_of(state)
    batch = {"image": jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8)}
    return jax.eval_shape(make_train_step(config, *made), state, batch)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(
    "toy, reason",
    [
        (Toy(drawn=lambda x0: Drawn(x0[:3])), r"draw gave \.noise of shape \(3, 8, 8, 1\); expected \[batch, "),
        (Toy(drawn=lambda x0: Drawn(jnp.zeros(()))), r"draw gave \.noise of shape \(\); expected"),
        (Toy(value=lambda x0: jnp.mean(x0, axis=(1, 2, 3))), r"loss gave a float32 of shape \(\d+,\); expected"),
        (Toy(value=lambda x0: jnp.zeros((), int)), r"loss gave a int32 of shape \(\); expected a float"),
        (Toy(terms=lambda x0: Terms(jnp.mean(x0))), r"the term 'size' of shape \(\); expected \[batch\]"),
        (Toy(terms=lambda x0: Terms(x0[:, 0, 0])), r"the term 'size' of shape \(\d+, 1\); expected \[batch\]"),
        (Toy(terms=lambda x0: {"size": x0}), "terms of type dict; expected a NamedTuple"),
    ],
)
def test_what_a_method_gives_in_another_shape_is_refused_by_its_name(toy, reason, parts):
    with pytest.raises(UserError, match=f"method 'autoencoder': .*{reason}"):
        trace(toy, parts)


def test_terms_and_a_loss_as_they_should_be_are_traced():
    _, metrics = trace(Toy(), 4)
    assert metrics.terms.keys() == {"size"} and metrics.loss.total.shape == ()
