"""A run of random parameters, to be exported."""

import jax
import numpy as np

from ddm_embed.features.choice import Choice
from ddm_embed.features.run import Run
from ddm_embed.methods.build import make_models


def make_frozen(config, image_shape=(8, 8, 1), scale=None, feature=None):
    """Random parameters in place of trained ones: at initialisation most of a network is switched off."""
    classes = 3 if config.objective.name == "supervised" else None
    models = make_models(config, image_shape, classes=classes)
    leaves, tree = jax.tree.flatten(jax.eval_shape(models.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    leaves = [rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32) for leaf in leaves]
    choice = Choice(feature or models.features[-1], 0.3, "a test")
    return Run(config, image_shape, jax.tree.unflatten(tree, leaves), 3, "here", scale, classes, (choice, (0.0, 0.3)))
