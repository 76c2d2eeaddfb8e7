import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.errors import UserError
from ddm_embed.features import bank
from ddm_embed.features.bank import Filling, Key
from ddm_embed.parallel.mesh import make_mesh

TIMES = (0.0, 0.5)
RNG = np.random.default_rng(0)
BATCHES = [{"z": RNG.normal(size=(2, 4, 3)), "encoder_1": RNG.normal(size=(2, 4, 5))} for _ in range(3)]


def fill(gib):
    filling = Filling({"z": 3, "encoder_1": 5}, TIMES, 10, gib, make_mesh(1, 1))
    for batch in BATCHES:
        filling.add({name: jnp.asarray(x, jnp.float32) for name, x in batch.items()})
    return filling.done()


def test_features_are_the_same_in_memory_and_on_disk():
    kept, spilled = fill(1.0), fill(0.0)
    assert kept.folder is None and isinstance(spilled.columns["z"], np.memmap)
    assert kept.keys == spilled.keys == [Key(name, t) for t in TIMES for name in ("z", "encoder_1")]
    whole = np.concatenate([batch["z"] for batch in BATCHES], axis=1)[1, :10]
    np.testing.assert_allclose(kept.one(Key("z", 0.5)), whole, rtol=1e-6)
    for key in kept.keys:
        np.testing.assert_array_equal(kept.one(key), spilled.one(key))
    for (group, x), (others, y) in zip(
        kept.stacks(kept.keys, make_mesh(1, 1), 1e9), spilled.stacks(kept.keys, make_mesh(1, 1), 1e9), strict=True
    ):
        assert group == others and x.shape[:2] == (2, 10)
        np.testing.assert_array_equal(x, y)


def test_files_go_with_the_bank():
    spilled = fill(0.0)
    folder = spilled.folder.name
    spilled.folder.cleanup()
    assert not list(bank.Path(folder).parent.glob(bank.Path(folder).name))


def test_stacks_of_one_width_have_one_shape_and_hold_every_key_once():
    kept = fill(1.0)
    stacks = list(kept.stacks(kept.keys, make_mesh(1, 1), 10 * 3 * 4))  # room for one key of width 3
    assert [key for group, _ in stacks for key in group] == sorted(kept.keys, key=lambda key: key.name != "z")
    assert {x.shape for _, x in stacks} == {(1, 10, 3), (1, 10, 5)}


def test_a_disk_that_is_too_small_is_said_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(bank.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"config.features_gib .* set TMPDIR to a larger disk"):
        Filling({"z": 3}, TIMES, 10, 0.0, make_mesh(1, 1))
