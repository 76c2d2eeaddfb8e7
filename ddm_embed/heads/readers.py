"""Readers of a trajectory: the codes of an image at several noise levels, x [number, time, dim], read as one.

After Mittal et al. 2022, "From Points to Functions: Infinite-dimensional Representations in Diffusion Models", arXiv
2210.13774, and its released code, https://github.com/sarthmit/traj_drl, whose settings are the defaults here: width
256, 4 attention heads, dropout 0.25, batches of 256, 100 epochs of Adam with gradients clipped to norm 1 and an L2
penalty of 1e-5. Theirs keeps the epoch that is best on validation images; here the learning rate falls to 0 along a
cosine and the last step counts, so that a reader needs no validation images of its own.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ddm_embed.errors import UserError
from ddm_embed.heads.linear import standardisation

Trajectory = Float[Array, "number time dim"]
Labels = Int[Array, " number"]
Levels = Float[Array, " time"]
Logits = Float[Array, "number class"]


def levels(k: int) -> Float[np.ndarray, " time"]:
    """The k + 1 noise levels j / k, from t = 0 to t = 1."""
    return np.arange(k + 1, dtype=np.float32) / np.float32(k)


def mean(x: Trajectory) -> Float[Array, "number dim"]:
    """The mean over levels, for any head to read."""
    return jnp.mean(x, axis=1)


def concatenate(x: Trajectory) -> Float[Array, "number time_dim"]:
    """All levels' codes in a row, [number, time * dim], for any head to read."""
    return jnp.reshape(x, (len(x), -1))


class Attention(nn.Module):
    """A learned query among an image's codes: twice through one post-norm transformer block, then a linear layer.

    The level enters as waves of 50 t, the released code's position at k = 50, so the order given does not matter.
    """

    classes: int
    width: int = 256
    heads: int = 4
    passes: int = 2
    dropout: float = 0.25

    @nn.compact
    def __call__(self, x: Trajectory, t: Levels, train: bool = False) -> Logits:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        h = drop(nn.Dense(self.width, name="in")(x)) + sinusoids(50 * t, self.width)  # (B, T, W)
        query = self.param("query", nn.initializers.xavier_uniform(), (1, self.width))
        h = jnp.concatenate([h, jnp.broadcast_to(query, (len(x), 1, self.width))], axis=1)
        attend = nn.MultiHeadDotProductAttention(self.heads, name="attend")
        norms = nn.LayerNorm(name="norm_1"), nn.LayerNorm(name="norm_2")
        wide, narrow = nn.Dense(2 * self.width, name="wide"), nn.Dense(self.width, name="narrow")
        for _ in range(self.passes):
            h = norms[0](h + attend(h, h))
            h = norms[1](h + drop(narrow(nn.relu(drop(wide(h))))))
        return nn.Dense(self.classes, name="out")(h[:, -1])


class Recurrence(nn.Module):
    """A gated recurrent unit along the levels in the order given, whose last state a linear layer reads."""

    classes: int
    width: int = 256
    dropout: float = 0.25

    @nn.compact
    def __call__(self, x: Trajectory, t: Levels, train: bool = False) -> Logits:
        del t  # the order says it
        over = {"variable_broadcast": "params", "split_rngs": {"params": False, "dropout": True}}
        h = jnp.zeros((len(x), self.width), x.dtype)
        h, _ = nn.scan(_Step, in_axes=1, **over)(self.width, self.dropout, train)(h, x)
        return nn.Dense(self.classes, name="out")(h)


class _Step(nn.Module):
    width: int
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, h, x):
        h, _ = nn.GRUCell(self.width)(h, x)
        return nn.Dropout(self.dropout, deterministic=not self.train)(h), None


KINDS = {"attention": Attention, "gru": Recurrence}


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """What a reader learns from, and what it then reads.

    Attributes:
      fit: [number, time, dim]. labels: [number], below `classes`. queries: [query, time, dim]. t: [time], the levels.
    """

    fit: Trajectory
    labels: Labels
    queries: Float[Array, "query time dim"]
    classes: int
    t: Levels


def fit_predict_reader(
    kind: str,
    codes: Codes,
    hypers: Float[Array, " hyper"],
    key: Array,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    width: int = 256,
    dropout: float = 0.25,
) -> Int[Array, "hyper query"]:
    """Trains a reader at every learning rate at once, from one initialisation on the same batches; its predictions.

    Codes are standardised per level and dim by the fit set. The noise in them should be one draw for all levels.

    Args:
      kind: "attention" or "gru".
      hypers: peak learning rates [hyper]; the paper's code has 5e-5 to 1e-3. key: of initialisation, order and dropout.
      epochs: passes over the fit set. batch_size: images a step, at most all; what is left of an epoch is dropped.
      width: a multiple of 8. dropout: share of units dropped in training.

    Raises:
      UserError: an unknown kind, or shapes or sizes that do not fit.
    """
    if kind not in KINDS:
        raise UserError(f"reader={kind!r}: expected one of {', '.join(KINDS)}")
    if width < 1 or width % 8:
        raise UserError(f"width={width}: expected a multiple of 8, for pairs of waves and 4 heads")
    check_codes(codes, epochs, batch_size)
    settings = (kind, codes.classes, epochs, min(batch_size, len(codes.fit)), width, dropout)
    return _fit_predict_reader(codes.fit, codes.labels, codes.queries, hypers, key, codes.t, settings)


@partial(jax.jit, static_argnames="settings")
def _fit_predict_reader(fit, labels, queries, hypers, key, t, settings):
    kind, classes, epochs, batch_size, width, dropout = settings
    model = KINDS[kind](classes, width=width, dropout=dropout)
    start, order = jax.random.split(key)
    centre, scale = standardisation(fit)
    batches = jnp.pad(queries, ((0, -len(queries) % batch_size), (0, 0), (0, 0)))
    batches = batches.reshape(-1, batch_size, *queries.shape[1:])
    t = jnp.asarray(t, jnp.float32)

    def loss(params, index, key):
        x = (fit[index] - centre) * scale
        logits = model.apply(params, x, t, train=True, rngs={"dropout": key})
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]))

    def one(rate):
        params = descend(loss, model.init(start, fit[:1], t), len(fit), rate, order, epochs, batch_size, penalty=1e-5)

        def predict(x):
            return jnp.argmax(model.apply(params, (x - centre) * scale, t), axis=-1)

        return jax.lax.map(predict, batches).reshape(-1)[: len(queries)]

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(jnp.asarray(hypers, jnp.float32))


def descend(
    loss: Callable, params, number: int, rate: Array, key: Array, epochs: int, batch_size: int, penalty: float = 0.0
):
    """Parameters after Adam on shuffled batches, the learning rate falling from `rate` to 0 along a cosine.

    Args:
      loss: (params, index [batch], key) -> []. number: images to index. rate: []. key: of order and dropout.
      penalty: added to the gradient, times the parameters.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(penalty), optax.scale_by_adam())
    batches = number // batch_size
    shuffle, drop = jax.random.split(key)

    def step(state, index):
        params, moments, i = state
        gradient = jax.grad(loss)(params, index, jax.random.fold_in(drop, i))
        update, moments = optimizer.update(gradient, moments, params)
        pace = rate * (1 + jnp.cos(jnp.pi * i / (epochs * batches))) / 2
        params = jax.tree.map(lambda p, u: p - pace * u, params, update)
        return (params, moments, i + 1), None

    def epoch(state, e):
        order = jax.random.permutation(jax.random.fold_in(shuffle, e), number)
        return jax.lax.scan(step, state, order[: batches * batch_size].reshape(batches, batch_size))

    state = params, optimizer.init(params), jnp.int32(0)
    return jax.lax.scan(epoch, state, jnp.arange(epochs))[0][0]


def sinusoids(position: Float[Array, " time"], width: int) -> Float[Array, "time width"]:
    """Sines, then cosines, of a position at width / 2 frequencies (Vaswani et al. 2017, arXiv 1706.03762, sec. 3.5)."""
    angle = position[:, None] * jnp.exp(-math.log(10000) * jnp.arange(0, width, 2) / width)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def check_codes(codes: Codes, epochs: int, batch_size: int) -> None:
    """Refuses what no reader can be trained on.

    Raises:
      UserError: shapes that do not fit, values that are not finite, or no epochs or batches.
    """
    fit, labels, queries, t = codes.fit, codes.labels, codes.queries, codes.t
    if fit.ndim != 3 or queries.ndim != 3 or fit.shape[1:] != queries.shape[1:] or 0 in fit.shape:
        raise UserError(f"trajectories of shapes {fit.shape} and {queries.shape}: expected [image, time, dim], alike")
    if len(labels) != len(fit) or len(t) != fit.shape[1]:
        found = f"{len(labels)} labels and {len(t)} levels"
        raise UserError(f"{found} for codes of shape {fit.shape}: expected one label an image and one t a level")
    for x in (fit, queries):
        if not isinstance(x, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(x))):
            raise UserError("trajectories hold values that are not finite; look at the checkpoint")
    if epochs < 1 or batch_size < 1:
        raise UserError(f"epochs={epochs}, batch_size={batch_size}: expected at least one of each")


class LearnedT(NamedTuple):
    """Per learning rate: predictions of the start whose training loss ended lowest, its t; every start's t and loss."""

    predicted: Int[Array, "hyper query"]
    t: Float[Array, " hyper"]
    ends: Float[Array, "hyper start"]
    losses: Float[Array, "hyper start"]


def fit_predict_learned_t(
    codes: Codes,
    hypers: Float[Array, " hyper"],
    key: Array,
    *,
    starts: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
    epochs: int = 100,
    batch_size: int = 256,
) -> LearnedT:
    """A linear head and the noise level it reads, t, trained together by Adam from several t's at once.

    t = t_1 + (t_k - t_1) sigmoid(u) with a learned scalar u, after Mittal et al. 2023, "Diffusion Based Representation
    Learning", arXiv 2105.14257; the sigmoid is that of https://github.com/sarthmit/traj_drl (models/timeembedding.py),
    where t enters a trainable encoder. Here the codes are frozen on a grid and read between levels by linear
    interpolation: exact at the levels, between them only as good as the grid is fine, and flattering where the levels'
    noise is not the same draw. Codes are standardised per level and dim by the fit set. The loss has a minimum at every
    peak of the profile and is flat where codes say nothing, hence the starts.

    Args:
      codes: their levels ascend. hypers: peak learning rates [hyper], of the head and of u, which one step moves by
        about as much: 0.01 to 0.1 for hundreds of steps. key: of the order.
      starts: first values of t as shares of the way from t_1 to t_k, inside 0..1.
      epochs: passes over the fit set. batch_size: images a step, at most all.

    Raises:
      UserError: shapes or sizes that do not fit, fewer than two levels, t not ascending, or starts outside 0..1.
    """
    check_codes(codes, epochs, batch_size)
    t = codes.t
    if len(t) < 2 or (not isinstance(t, jax.core.Tracer) and np.any(np.diff(t) <= 0)):
        raise UserError(f"levels t={t}: expected two or more in ascending order, to read between them")
    if not starts or not all(0 < start < 1 for start in starts):
        raise UserError(f"starts={starts}: expected shares of the way between 0 and 1, both excluded")
    settings = (codes.classes, tuple(starts), epochs, min(batch_size, len(codes.fit)))
    return _fit_predict_learned_t(codes.fit, codes.labels, codes.queries, hypers, key, t, settings)


@partial(jax.jit, static_argnames="settings")
def _fit_predict_learned_t(fit, labels, queries, hypers, key, t, settings) -> LearnedT:
    classes, starts, epochs, batch_size = settings
    standard = standardisation(fit)
    t = jnp.asarray(t, jnp.float32)

    def level(params):
        return t[0] + (t[-1] - t[0]) * jax.nn.sigmoid(params["u"])

    def logits(params, x):
        return codes_at(x, t, level(params), *standard) @ params["weights"] + params["bias"]

    def loss(params, index, key):
        scores = logits(params, fit[index])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels[index]))

    def one(rate, start):
        params = {"u": jnp.log(start / (1 - start)), "bias": jnp.zeros(classes)}
        params["weights"] = jnp.zeros((fit.shape[-1], classes))
        params = descend(loss, params, len(fit), rate, key, epochs, batch_size)
        return jnp.argmax(logits(params, queries), axis=-1), level(params), loss(params, slice(None), None)

    with jax.default_matmul_precision("highest"):
        each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        predicted, ends, losses = each(jnp.asarray(hypers, jnp.float32), jnp.array(starts, jnp.float32))
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf), axis=1)
    row = jnp.arange(len(best))
    return LearnedT(predicted[row, best], ends[row, best], ends, losses)


def codes_at(x: Trajectory, t: Levels, level: Float[Array, ""], centre=0.0, scale=1.0) -> Float[Array, "number dim"]:
    """Codes between two of the ascending levels t [time], by linear interpolation; differentiable in `level`.

    Those of both levels are first lessened by centre [time, dim] and multiplied by scale [time, dim].
    """
    left = jnp.clip(jnp.searchsorted(t, level, side="right") - 1, 0, len(t) - 2)
    share = jnp.clip((level - t[left]) / (t[left + 1] - t[left]), 0, 1)
    centre, scale = (jnp.broadcast_to(array, x.shape[1:]) for array in (centre, scale))
    lower, upper = ((x[:, i] - centre[i]) * scale[i] for i in (left, left + 1))
    return (1 - share) * lower + share * upper
