import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ddm_embed.errors import UserError
from ddm_embed.heads import readers

KEY = jax.random.key(0)


def xor(number, seed):
    """Codes [number, 4, 2] whose class is whether the signs at the second and the last level differ."""
    x = np.random.default_rng(seed).normal(size=(number, 4, 2)).astype(np.float32)
    return x, (x[:, 1, 0] * x[:, 3, 0] < 0).astype(int)


def test_the_levels_are_the_ends_of_k_equal_steps():
    assert readers.levels(2).tolist() == [0, 0.5, 1] and all(len(readers.levels(k)) == k + 1 for k in (2, 7, 50))


def test_mean_concatenation_and_draws_keep_the_images_apart():
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(readers.mean(x), [x[0].mean(axis=0), x[1].mean(axis=0)])
    np.testing.assert_array_equal(readers.concatenate(x), [np.concatenate(x[0]), np.concatenate(x[1])])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "gru"])
def test_a_reader_of_all_levels_reads_what_no_single_level_says(kind):
    (fit, labels), (queries, truth) = xor(768, 0), xor(300, 1)
    t = np.linspace(0.1, 0.7, 4)
    codes, read = readers.Codes(fit, labels, queries, 2, t), dict(epochs=25, batch_size=64, width=16, dropout=0.0)
    found = readers.fit_predict_reader(kind, codes, jnp.array([0.02, 1e-9]), KEY, **read)
    single = [KNeighborsClassifier(20).fit(fit[:, i], labels).score(queries[:, i], truth) for i in range(4)]
    assert found.shape == (2, 300)
    assert np.mean(found[0] == truth) > 0.88 > 0.65 > max(single)
    assert np.mean(found[1] == truth) < 0.65  # without a learning rate nothing is learned


@pytest.mark.slow
def test_attention_knows_the_level_by_t_and_not_by_the_order_given():
    model = readers.Attention(3, width=16)
    x, t, order = jax.random.normal(KEY, (5, 6, 4)), jnp.linspace(0, 1, 6), np.array([3, 0, 5, 1, 4, 2])
    params = model.init(KEY, x, t)
    expected = model.apply(params, x, t)
    np.testing.assert_allclose(model.apply(params, x[:, order], t[order]), expected, atol=1e-5)
    assert np.max(np.abs(model.apply(params, x[:, order], t) - expected)) > 1e-3


def test_the_recurrence_reads_in_order():
    model = readers.Recurrence(3, width=16)
    x, t = jax.random.normal(KEY, (5, 6, 4)), jnp.linspace(0, 1, 6)
    params = model.init(KEY, x, t)
    assert np.max(np.abs(model.apply(params, x[:, ::-1], t) - model.apply(params, x, t))) > 1e-3


@pytest.mark.slow
def test_dropout_is_for_training_only():
    x, t = jax.random.normal(KEY, (5, 6, 4)), jnp.linspace(0, 1, 6)
    for model in (readers.Attention(3, width=16, dropout=0.5), readers.Recurrence(3, width=16, dropout=0.5)):
        params = model.init(KEY, x, t)
        drawn = [model.apply(params, x, t, train=True, rngs={"dropout": jax.random.key(s)}) for s in (0, 1)]
        assert np.max(np.abs(drawn[0] - drawn[1])) > 1e-3
        np.testing.assert_array_equal(model.apply(params, x, t), model.apply(params, x, t))


@pytest.mark.slow
def test_predictions_know_no_scale_or_shift_of_a_level_and_survive_constant_dims():
    (fit, labels), (queries, _) = xor(96, 0), xor(40, 1)

    def read(fit, queries):
        codes = readers.Codes(fit, labels, queries, 2, np.linspace(0, 1, 4))
        return readers.fit_predict_reader("gru", codes, jnp.array([0.01]), KEY, epochs=3, batch_size=32, width=8)

    found = read(fit, queries)
    scale, shift = np.float32([[2.0, 0.5], [8, 1], [4, 4], [0.25, 1]]), np.float32([[1.0, 2], [0, 0], [3, 1], [0, 1]])
    again = read(*(array * scale + shift for array in (fit, queries)))
    assert np.mean(again == found) > 0.95  # ties within float32
    fit[:, 2], queries[:, 2] = 7.0, 7.0
    assert read(fit, queries).shape == (1, 40)


def test_descent_is_optax_adam_with_clipping_penalty_and_a_cosine():
    target, number, rate = jax.random.normal(KEY, (7, 3)), 7, 0.1

    def loss(params, index, key):
        return 5 * jnp.mean((params - target[index]) ** 2)

    found = readers.descend(loss, jnp.zeros(3), number, jnp.float32(rate), KEY, 40, number, penalty=0.1)
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.scale_by_adam(),
                            optax.scale_by_learning_rate(optax.cosine_decay_schedule(rate, 40)))  # fmt: skip
    params, state = jnp.zeros(3), reference.init(jnp.zeros(3))
    for _ in range(40):  # one batch holds all, so their order is no matter
        update, state = reference.update(jax.grad(loss)(params, slice(None), None), state, params)
        params = optax.apply_updates(params, update)
    np.testing.assert_allclose(found, params, atol=1e-5)


def test_an_epoch_sees_every_image_once_in_another_order():
    def loss(params, index, key):  # a linear loss, whose gradient is what was seen
        return jnp.sum(params * jax.nn.one_hot(index, 12).sum(axis=0))

    def seen(epochs, batch_size):
        return readers.descend(loss, jnp.zeros(12), 12, jnp.float32(1e-3), KEY, epochs, batch_size)

    assert np.all(seen(1, 3) < 0) and np.sum(np.asarray(seen(1, 5)) == 0) == 2  # 12 = 2 x 5 + 2 dropped
    assert np.all(seen(8, 5) < 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "lstm"}, "attention, gru"),
        ({"width": 12}, "multiple of 8"),
        ({"labels": np.zeros(5, int)}, "5 labels"),
        ({"t": np.zeros(3)}, "3 levels"),
        ({"queries": np.zeros((2, 4, 3))}, "alike"),
        ({"epochs": 0}, "epochs=0"),
        ({"fit": np.full((6, 4, 2), np.inf)}, "not finite"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(changes, says):
    (fit, labels), (queries, _) = xor(6, 0), xor(3, 1)
    codes = dict(fit=fit, labels=labels, queries=queries, classes=2, t=np.arange(4))
    given = dict(kind="gru", hypers=[0.1], key=KEY)
    for name, value in changes.items():
        (codes if name in codes else given)[name] = value
    with pytest.raises(UserError, match=says):
        readers.fit_predict_reader(codes=readers.Codes(**codes), **given)


def planted(number, seed, t, at=0.4, width=0.08):
    """Codes of five classes, told apart only near one level, with one draw of noise for all levels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, number)
    seen = np.exp(-(((t - at) / width) ** 2) / 2)
    x = seen[None, :, None] * 2 * np.eye(5)[labels][:, None] + rng.normal(size=(number, 1, 5))
    return x.astype(np.float32), labels


def test_codes_between_levels_are_interpolated():
    t, x = np.float32([0.1, 0.2, 0.6]), np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    for level in (0.1, 0.17, 0.2, 0.3, 0.6):
        expected = [[np.interp(level, t, x[n, :, d]) for d in range(2)] for n in range(4)]
        np.testing.assert_allclose(readers.codes_at(x, t, jnp.float32(level)), expected, atol=1e-5)
    slope = jax.jacobian(lambda level: readers.codes_at(x, t, level))(jnp.float32(0.3))
    np.testing.assert_allclose(slope, (x[:, 2] - x[:, 1]) / 0.4, rtol=1e-4)


def test_a_learned_t_finds_the_level_that_says_the_class():
    t = readers.levels(10)
    (fit, labels), (queries, truth) = planted(600, 0, t), planted(300, 1, t)
    codes = readers.Codes(fit, labels, queries, 5, t)
    found = readers.fit_predict_learned_t(codes, jnp.array([0.05, 0.02]), KEY, epochs=40, batch_size=100)
    assert found.predicted.shape == (2, 300) and found.ends.shape == found.losses.shape == (2, 5)
    np.testing.assert_allclose(found.t, 0.4, atol=0.1)
    np.testing.assert_array_equal(found.t, found.ends[np.arange(2), np.argmin(found.losses, axis=1)])
    best = max(LogisticRegression(max_iter=500).fit(fit[:, i], labels).score(queries[:, i], truth) for i in range(11))
    assert np.all(np.mean(found.predicted == truth, axis=1) > best - 0.04)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"t": [0, 1, 1, 2]}, "ascending"), ({"starts": (0.0, 0.5)}, "starts"), ({"starts": ()}, "starts")],
)
def test_a_learned_t_needs_levels_in_order_and_starts_between_them(changes, says):
    (fit, labels), (queries, _) = planted(6, 0, np.arange(4)), planted(3, 1, np.arange(4))
    with pytest.raises(UserError, match=says):
        codes = readers.Codes(fit, labels, queries, 5, changes.get("t", np.arange(4)))
        readers.fit_predict_learned_t(
            codes, [0.1], KEY, **{name: value for name, value in changes.items() if name != "t"}
        )
