"""Parameters and operations of configs/imagenet256_xl.py against formulas written out here."""

import importlib.util

import jax
import pytest
from conftest import ROOT

from ddm_embed.methods.build import make_models
from ddm_embed.preflight import compiled
from ddm_embed.preflight.compiled import Machine, estimate

IMAGE = (256, 256, 3)


def xl(**changes):
    spec = importlib.util.spec_from_file_location("imagenet256_xl", ROOT / "configs" / "imagenet256_xl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def models():
    return make_models(xl(), IMAGE, platform="tpu")


def test_parameters_are_those_of_a_dit_xl_and_an_encoder_half_as_deep(models):
    w, pixels, z = 1152, 16 * 16 * 3, 1024
    attention, mlp, modulation = 4 * w * w + 4 * w, 8 * w * w + 5 * w, 6 * w * w + 6 * w
    block = attention + mlp + modulation
    trunk = pixels * w + w + 256 * w + w + w * w + w  # patches; the time's two layers
    denoiser = 28 * block + trunk + z * w + w + w * w + w + 2 * w * w + 2 * w + w * pixels + pixels
    encoder = 14 * block + trunk + 2 * w + w * z + z
    params = jax.eval_shape(models.init, jax.random.key(0))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert sizes == {"denoiser": denoiser, "encoder": encoder}
    assert sizes["denoiser"] == pytest.approx(675e6, rel=0.01)  # Peebles & Xie, table 4: DiT-XL/2


def test_operations_are_those_of_a_dit_xl_and_an_encoder_half_as_deep(models):
    w, n, pixels, z = 1152, 256, 16 * 16 * 3, 1024
    block = n * 12 * w * w + 2 * n * n * w + 6 * w * w  # attention and MLP, scores and their sums, modulation
    ends = n * pixels * w
    multiply_adds = {"denoiser": 28 * block + 2 * ends, "encoder": 14 * block + ends + w * z}
    flops = models.forward_flops()
    for name, expected in multiply_adds.items():
        assert flops[name] == pytest.approx(2 * expected, rel=0.01)
    # Peebles & Xie, table 4, count 118.6 billion multiply-adds of DiT-XL/2, whose patches are 16 numbers, not 768.
    assert flops["denoiser"] / 2 - 2 * ends == pytest.approx(118.6e9, rel=0.01)


def test_a_chip_holds_its_share_of_the_state(models, monkeypatch):
    """16 bytes a parameter: float32 of itself, of its average and of AdamW's two; matrices are split over fsdp."""
    monkeypatch.setattr(compiled, "make_mesh", abstract_mesh)
    machine = Machine("16 chips", [FakeChip()] * 16, None)
    monkeypatch.setattr(compiled, "_memory_of", lambda _: None)
    monkeypatch.setattr(compiled, "peak_flops", lambda _: (1.0, ""))
    state = estimate(xl(), IMAGE, machine, compile=False).state
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(models.init, jax.random.key(0)))
    matrices = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    vectors = sum(leaf.size for path, leaf in leaves if path[-1].key != "kernel")
    assert state.count == matrices + vectors
    assert state.parameters == state.average == 4 * (matrices / 16 + vectors)
    assert state.optimizer == 2 * state.parameters + 8  # and two counters


class FakeChip:
    platform = "tpu"


def abstract_mesh(data, fsdp, tensor, devices):
    return jax.sharding.AbstractMesh((data, fsdp, tensor), ("data", "fsdp", "tensor"))
