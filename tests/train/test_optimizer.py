import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from ddm_embed.config import default
from ddm_embed.features.run import open_run
from ddm_embed.train.loop import train
from ddm_embed.train.optimizer import make_optimizer

NETWORK = {"denoiser": {"kernel": jnp.ones((2, 2))}}


def updates(config, grads):
    params = jax.tree.map(jnp.zeros_like, grads)
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    return optimizer.update(grads, state, params)


def moments(state):
    """The optimizer's mean of the denoiser's gradients, which shows what was left of them after clipping."""
    return [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if "mu" in str(path) and leaf.shape == (2, 2)
    ]


def test_an_adversarys_gradient_does_not_clip_the_networks():
    config = tiny_config(**{"diffusion.timesteps": "adversarial", "optimizer.warmup_steps": 0})
    _, alone = updates(tiny_config(**{"optimizer.warmup_steps": 0}), NETWORK)
    _, beside = updates(config, NETWORK | {"adversary": {"logits": jnp.full(20, 1e6)}})
    np.testing.assert_allclose(moments(beside)[0], moments(alone)[0], rtol=1e-6)
    assert float(jnp.linalg.norm(moments(alone)[0])) == pytest.approx(1 - default().optimizer.b1, rel=1e-5)


@pytest.mark.slow
def test_the_adversary_learns_and_is_saved_with_the_run(tmp_path):
    small = {"embedding.input": "none", "model.depth": 1, "train.steps": 6, "train.checkpoint_every": 6}
    config = tiny_config(**{"diffusion.timesteps": "adversarial"} | small)
    assert train(config, tmp_path).finished
    logits = open_run(tmp_path).params["adversary"]["logits"]
    assert logits.shape == (20,) and float(jnp.std(logits)) > 0


def test_weight_decay_acts_on_kernels_alone_whatever_their_shape():
    params = {"heads": {"kernel": jnp.ones((4, 3, 2)), "bias": jnp.ones((3, 2))}, "norm": {"scale": jnp.ones(4)}}
    optimizer = make_optimizer(tiny_config(**{"optimizer.warmup_steps": 0, "optimizer.weight_decay": 0.1}))
    step, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert jax.tree.map(lambda leaf: bool(jnp.any(leaf != 0)), step) == {
        "heads": {"kernel": True, "bias": False},
        "norm": {"scale": False},
    }
