import jax
import pytest
from conftest import tiny_models
from jax.sharding import PartitionSpec as P

from ddm_embed.errors import UserError
from ddm_embed.parallel.mesh import partition

ALONE = {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"consistency.weight": 1.0},
        {"model.qk_norm": True},
        {"embedding.input": "none"},
        {"model.encoder": "wrn-10-2", "embedding.gaussian": True, "diffusion.timesteps": "adversarial"},
        {"method": "vae"},
        {"method": "mae", "model.scan": True},
        {"method": "byol"},
        {"method": "supervised", "classes": 7},
    ],
)
def test_rules_cover_every_parameter_and_split_every_matrix_of_the_trunk(options):
    models = tiny_models((8, 8, 3), **options)
    params = jax.eval_shape(models.init, jax.random.key(0))
    specs = partition(params, ALONE)
    for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda leaf: isinstance(leaf, P)):
        keys = [part.key for part in path]
        shape = params
        for key in keys:
            shape = shape[key]
        split = [size for size, axis in zip(shape.shape, spec, strict=False) if axis == "fsdp"]
        assert all(size % 16 == 0 for size in split)
        if keys[-1] == "kernel" and keys[0] not in ("predictor", "projector", "classifier"):
            assert len(split) == 1
        if keys[-1] == "kernel" and ("attention" in keys or "mlp_in" in keys or "mlp_out" in keys):
            assert [size for size, axis in zip(shape.shape, spec, strict=False) if axis == "tensor"]


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(ValueError, match="denoiser/mystery"):
        partition({"denoiser": {"mystery": jax.ShapeDtypeStruct((3,), "float32")}}, ALONE)


def test_a_parameter_that_does_not_divide_is_named():
    params = {"denoiser": {"block_0": {"mlp_in": {"kernel": jax.ShapeDtypeStruct((16, 24), "float32")}}}}
    with pytest.raises(
        UserError, match=r"mesh\.tensor=5 does not divide 24.*denoiser/block_0/mlp_in/kernel \(16, 24\)"
    ):
        partition(params, {"data": 1, "fsdp": 4, "tensor": 5})
