from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.diffusion.objective import Terms
from ddm_embed.methods.simclr import ContrastTerms
from ddm_embed.train.metrics import NEVER, LevelMean, StepMetrics, peak_flops, train_flops


def test_loss_by_noise_level_is_the_mean_within_each_slice():
    t = jnp.arange(1, 1001) / 1000
    value = jnp.asarray(np.random.default_rng(0).random(1000), jnp.float32)
    expected = np.asarray(value).reshape(5, 200).mean(axis=1)  # 0.2 belongs to the first slice, 0.201 to the second
    np.testing.assert_allclose(LevelMean.of(value, t).compute(), expected, rtol=1e-5)
    halves = LevelMean.of(value[:300], t[:300]).merge(LevelMean.of(value[300:], t[300:]))
    np.testing.assert_allclose(halves.compute(), expected, rtol=1e-5)


def step_metrics(step, loss, grad_norm=1.0):
    terms = Terms(*(jnp.full(4, x) for x in (0.1, loss, loss, 0.0, 0.0)))
    return StepMetrics.of_step(jnp.int32(step), jnp.float32(loss), terms, jnp.float32(grad_norm))


def test_steps_are_averaged_and_slices_without_examples_left_out():
    values = step_metrics(0, 1.0).merge(step_metrics(1, 3.0)).read()
    assert values["loss"] == 2.0 and values["loss_t0.0-0.2"] == 2.0 and "loss_t0.2-0.4" not in values


@pytest.mark.parametrize(("loss", "grad_norm"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.inf), (1.0, np.nan)])
def test_the_first_step_that_is_not_finite_is_remembered(loss, grad_norm):
    total = step_metrics(4, 1.0)
    assert int(total.nonfinite_step) == NEVER
    for step, value in ((5, (loss, grad_norm)), (6, (1.0, 1.0)), (7, (loss, grad_norm))):
        total = total.merge(step_metrics(step, *value))
    assert int(total.nonfinite_step) == 5


def test_peaks_are_the_data_sheets_or_measured():
    lite, full = (SimpleNamespace(device_kind=kind) for kind in ("TPU v5 lite", "TPU v5p"))
    assert peak_flops(lite)[0] == 197e12 and peak_flops(full)[0] == 459e12
    assert peak_flops(SimpleNamespace(device_kind="NVIDIA H200"))[0] == 989e12
    assert peak_flops(SimpleNamespace(device_kind="NVIDIA A100-SXM4-80GB"))[0] == 312e12
    ticks = iter(range(100))
    assert peak_flops(jax.devices("cpu")[0], clock=lambda: next(ticks))[0] == 2 * 1024**3  # one second a product


def test_training_costs_three_forward_passes_unless_a_network_runs_more_often():
    assert train_flops({"denoiser": 10, "encoder": 4}, {}) == 42
    assert train_flops({"denoiser": 10, "encoder": 4}, {"encoder": 4}) == 46


def test_terms_of_an_objective_without_noise_levels_are_averaged_under_their_names():
    terms = ContrastTerms(jnp.array([0.0, 0.5, 1.0, 0.5]))
    total = StepMetrics.of_step(jnp.int32(0), jnp.float32(2.0), terms, jnp.float32(1.0))
    assert total.merge(total).read() == {"loss": 2.0, "accuracy": 0.5, "grad_norm": 1.0}
