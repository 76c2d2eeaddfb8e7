"""Heads trained on one and on eight devices, and by how much they differ."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from ddm_embed.heads.online import Training, fit_online
from ddm_embed.heads.recipes import DDAE, changed
from ddm_embed.parallel.mesh import make_mesh


def features_at(params, x0, eps, t):
    return {"x": (x0 + t * eps).reshape(len(x0), -1) @ params}


rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (30, 4, 4, 1), np.uint8), rng.integers(0, 3, 30)
recipe, key = changed(DDAE, batch_size=12, epochs=4, normalise=True), jax.random.key(0)
one, eight = (
    fit_online(recipe, Training(features_at, jnp.eye(16), images, labels, 3, key, mesh), (0.0, 0.5), ("x",), (0.03,))
    for mesh in (make_mesh(1, 1, devices=jax.devices()[:1]), make_mesh(8, 1))
)
largest = max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True)
)
print(json.dumps({"difference": largest, "moved": float(jnp.abs(eight["x"].layers[0]["kernel"]).max())}))
