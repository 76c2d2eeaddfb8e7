import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import kstest, norm

from ddm_embed.diffusion.process import PROCESSES, VE, VP
from ddm_embed.diffusion.timesteps import LAWS, Timesteps

CHAIN = VP().chain(1000)
KEY = jax.random.key(3)
LOGITS = jnp.array([0.0, 1.0, -1.0, 2.0])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("process", [CHAIN, VP(), VE()])
def test_every_law_stays_within_the_process(law, process):
    t = np.asarray(Timesteps(law).sample(process, KEY, 500, LOGITS))
    assert t.shape == (500,) and t.min() >= process.first - 1e-9 and t.max() <= 1
    if process is CHAIN:
        np.testing.assert_allclose(t * 1000, np.round(t * 1000), atol=1e-3)


def test_stratified_times_fall_one_in_each_slice():
    t = Timesteps("stratified").sample(CHAIN, KEY, 50)
    assert sorted(np.ceil(np.asarray(t) * 50 - 1e-4)) == list(range(1, 51))


def test_uniform_times_do_not():
    t = Timesteps("uniform").sample(CHAIN, KEY, 50)
    assert len(set(np.ceil(np.asarray(t) * 50 - 1e-4))) < 50
    assert kstest(np.asarray(Timesteps("uniform").sample(VP(), KEY, 5000)), "uniform").pvalue > 1e-3


def test_the_fixed_law_knows_one_level():
    assert set(np.asarray(Timesteps("fixed", fixed=0.6).sample(CHAIN, KEY, 9)).tolist()) == {np.float32(0.6).item()}


@pytest.mark.parametrize("name", PROCESSES)
def test_sigma_is_uniform_under_the_law_that_says_so(name):
    process = PROCESSES[name]()
    t = Timesteps("sigma").sample(process, KEY, 2000)
    low, high = process.marginal(np.array([process.first, process.last]))[1]
    # Stratified: each of 2,000 draws lies in its own slice, so the empirical law is within 1/2000 of the true one.
    assert kstest(np.asarray(process.marginal(t)[1]), "uniform", (low, high - low)).statistic < 2 / 2000


def test_a_chains_steps_are_drawn_as_often_as_sigma_grows_over_them():
    chain = VP().chain(10)
    t = np.asarray(Timesteps("sigma").sample(chain, KEY, 5000))
    shares = np.bincount(np.round(t * 10).astype(int), minlength=11)[1:] / 5000
    np.testing.assert_allclose(shares, np.diff(chain.sigma) / chain.sigma[-1], atol=2 / 5000)


def test_the_logit_of_t_is_normal_under_the_law_that_says_so():
    t = np.asarray(Timesteps("logit_normal", logit_mean=-0.5, logit_std=0.7).sample(VP(), KEY, 2000), np.float64)
    assert kstest(np.log(t / (1 - t)), norm(-0.5, 0.7).cdf).statistic < 2 / 2000


def test_the_adversary_draws_what_its_logits_say():
    t = np.asarray(Timesteps("adversarial").sample(VP(), KEY, 8000, LOGITS))
    shares = np.histogram(t, np.linspace(0, 1, 5))[0] / 8000
    np.testing.assert_allclose(shares, jax.nn.softmax(LOGITS), atol=2 / 8000)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_adversary_follows_the_loss(temperature):
    """Its law ends proportional to exp(loss / (mean loss * temperature)), the mean taken under the law itself."""
    law, per_bin = Timesteps("adversarial", adversary_temperature=temperature), jnp.array([0.1, 0.2, 0.4, 0.3])
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 600))

    @jax.jit
    def step(carry, key):
        logits, state = carry
        t = law.sample(VP(), key, 4000, logits)
        loss = per_bin[jnp.minimum((t * 4).astype(int), 3)]
        updates, state = optimizer.update(jax.grad(law.adversary)(logits, t, loss), state)
        return (optax.apply_updates(logits, updates), state), None

    logits = jnp.zeros(4)
    (logits, _), _ = jax.lax.scan(step, (logits, optimizer.init(logits)), jax.random.split(KEY, 600))
    found = np.asarray(jax.nn.softmax(logits))
    expected = np.exp(np.asarray(per_bin) / (found @ np.asarray(per_bin)) / temperature)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)
    assert found.argmax() == 2
