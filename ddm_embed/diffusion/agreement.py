"""How alike two embeddings of each image are, and how unlike those of others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Level = Float[Array, " batch"]
Vector = Float[Array, "batch dim"]


def cosine(a: Vector, b: Vector) -> Level:
    """Cosine of the angle between rows, [batch], in float32."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(norms + 1e-12)


def nt_xent(a: Vector, b: Vector, temperature: float, decoupled: bool = False) -> tuple[Level, Level]:
    """(loss, accuracy), [batch] each, of pairs of rows among all rows of both: means over a pair's two directions.

    l(i, j) = -log exp(cos(i, j) / temperature) / sum_{k != i} exp(cos(i, k) / temperature). Decoupled, the sum leaves j
    out, too, so that a pair that is alike already still learns: Yeh et al. 2022, arXiv 2110.06848, eq. 6.
    """
    batch = len(a)
    rows = jnp.concatenate([a, b]).astype(jnp.float32)
    rows = rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=-1, keepdims=True) + 1e-12)
    similarity = jnp.matmul(rows, rows.T, precision="highest") / temperature
    similarity = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, similarity)
    partner = (jnp.arange(2 * batch) + batch) % (2 * batch)
    positive = jnp.take_along_axis(similarity, partner[:, None], axis=1)[:, 0]
    right = jnp.argmax(similarity, axis=1) == partner
    if decoupled:
        similarity = jnp.where(jnp.arange(2 * batch) == partner[:, None], -jnp.inf, similarity)
    loss = jax.nn.logsumexp(similarity, axis=1) - positive
    return jnp.mean(loss.reshape(2, batch), axis=0), jnp.mean(right.reshape(2, batch), axis=0)
