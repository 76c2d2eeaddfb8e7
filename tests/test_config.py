import json
import runpy

import pytest
from conftest import ROOT, tiny_config

from ddm_embed import arms, methods
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.methods.diffusion import make_weight
from ddm_embed.validate import check_memory, mesh_shape, validate, validate_against, validate_probe


def test_json_round_trip_keeps_every_field_and_type():
    for config, default in ((tiny_config(), config_lib.default()), (config_lib.probe_default(),) * 2):
        again = config_lib.from_json(config_lib.to_json(config), default)
        assert config_lib.flatten(again) == config_lib.flatten(config)
        assert again.to_dict() == config.to_dict()


def test_json_of_another_version_or_no_json_is_refused():
    with pytest.raises(UserError, match=r"config\.train\.stepz: no such field; did you mean config\.train\.steps\?"):
        config_lib.from_json('{"train": {"stepz": 3}}', config_lib.default())
    with pytest.raises(UserError, match="not readable as JSON"):
        config_lib.from_json('{"train": ', config_lib.default())


def test_a_config_that_comes_with_the_package_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_lib.find_file("digits:steps=5,arm=vdrl") == f"{ROOT}/configs/digits.py:steps=5,arm=vdrl"
    (tmp_path / "mine.py").touch()
    assert config_lib.find_file("mine.py:steps=5") == "mine.py:steps=5"
    with pytest.raises(UserError, match=r"--config digit: no such file, nor .* there are cifar10, digits, .*, probe$"):
        config_lib.find_file("digit:steps=5")
    for wrong in ("digits.py", "configs/digits.py:steps=5", ""):
        with pytest.raises(UserError, match=f"^--config {wrong.partition(':')[0]}: no such file$"):
            config_lib.find_file(wrong)


def test_differences_leave_out_what_does_not_shape_the_result():
    config = tiny_config(**{"train.log_every": 1, "mesh.fsdp": 2, "data.data_dir": "/x", "embedding.dim": 3})
    assert config_lib.differences(tiny_config(), config) == ["embedding.dim was 8, is 3"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.variant", "S4", "NAME/PATCH"),
        ("model.heads", 3, "must divide by 4"),
        ("model.width", 18, "must divide by 4"),
        ("embedding.input", "x1", "use one of none, x0, xt, view"),
        ("embedding.input", "view", "set config.data.augment"),
        ("embedding.input", "clean_view", "set config.data.augment"),
        ("diffusion.process", "cubic", "use one of vp, sub_vp, ve, cosine, rectified_flow"),
        ("diffusion.prediction", "noise", "use one of eps, x0, v, flow, score"),
        ("diffusion.prediction", "score", "use config.diffusion.weight=sigma2"),
        ("diffusion.steps", 1, "0, which is continuous time"),
        ("diffusion.weight", "snr", "use one of simple, sigma2, min_snr, or MODULE:FUNCTION"),
        ("diffusion.weight", "os.system('x'):y", "use one of simple, sigma2, min_snr, or MODULE:FUNCTION"),
        ("diffusion.timesteps", "often", "use one of stratified, uniform, fixed"),
        ("diffusion.fixed_t", 1.5, "expected between"),
        ("diffusion.fixed_t", 0.3, "has no effect with config.diffusion.timesteps=stratified; set"),
        ("embedding.kl_weight", 0.1, "has no effect with config.embedding.gaussian=False"),
        ("embedding.gaussian", True, "set config.embedding.sphere=False"),
        ("embedding.drop", 1.0, "expected between"),
        ("model.encoder", "resnet-50", "is not wrn-DEPTH-WIDENING .* or transformer"),
        ("data.augment", "rotate", "use one of none, flip, crop"),
        ("objective.name", "gan", "use one of diffusion, autoencoder, vae, simclr, byol, moco, simsiam"),
        (
            "objective.name",
            "autoencoder",
            "knows no noise: .* set config.embedding.input=x0, now x0, and .*timed=False",
        ),
        ("objective.temperature", 0.1, "has no effect with config.objective.name=diffusion; .* to simclr.*FILE:arm"),
        ("objective.mask_share", 1.0, "expected between"),
        ("train.batch_size", 0, "expected at least 1"),
        ("train.log_every", 0, "expected at least 1"),
        ("train.seed", -1, "expected between"),
        ("optimizer.learning_rate", float("nan"), "expected a number"),
        ("optimizer.b1", 1.0, "expected between"),
        ("optimizer.warmup_steps", 20, "make it smaller"),
        ("mesh.fsdp", 0, "expected at least 1"),
    ],
)
def test_a_config_that_cannot_run_is_refused_naming_the_field(field, value, message):
    with pytest.raises(UserError, match=message) as error:
        validate(tiny_config(**{field: value}))
    named = {"model.heads": "model.width"}.get(field, field)  # heads must divide the width
    assert f"config.{named}=" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "consistency.kind=contrast has no effect with config.consistency.weight=0"),
        (
            {"consistency.kind": "chain", "diffusion.one_in": 2},
            "diffusion.one_in=2: expected a divisor of the 16 images of a step's part, and a",
        ),
        ({"diffusion.one_in": 3, "consistency.weight": 1.0, "data.augment": "crop"}, "diffusion.one_in=3: expected"),
        ({"consistency.weight": 1.0}, "compares two views of an image, and config.data.augment=none draws none"),
        ({"consistency.weight": 1.0, "data.augment": "crop", "train.accumulate": 2}, "accumulate=2 splits the batch"),
    ],
)
def test_consistency_between_views_is_refused_where_it_means_nothing(changes, message):
    with pytest.raises(UserError, match=message):
        validate(tiny_config(**{"consistency.kind": "contrast"} | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consistency.weight", 0.1),
        ("embedding.gaussian", True),
        ("embedding.l1_weight", 0.1),
        ("embedding.mixup", True),
        ("embedding.drop", 0.1),
    ],
)
def test_what_needs_an_encoder_is_refused_without_one(field, value):
    with pytest.raises(
        UserError, match=rf"config\.{field}={value} needs an encoder, .* set config\.embedding\.input to x0"
    ):
        validate(tiny_config(**{"embedding.input": "none", field: value}))


@pytest.mark.parametrize(
    "weight, message",
    [
        ("no.such:thing", "No module named 'no'"),
        ("math:cube", "has no attribute 'cube'"),
        ("math:pi", "is no function"),
        ("math:sqrt", r"does not take \(t, alpha, sigma\)"),
    ],
)
def test_code_that_a_config_names_is_imported_and_tried_for_training_alone(weight, message):
    config = tiny_config(**{"diffusion.weight": weight})
    validate(config)
    assert callable(make_weight(weight))  # which imports it when it is called
    with pytest.raises(UserError, match=rf"config\.diffusion\.weight='{weight}'.*{message}"):
        methods.of(config).check_named_code(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion.prediction": "x0", "diffusion.weight": "sigma2"}, "use config.diffusion.weight=min_snr"),
        ({"diffusion.process": "ve", "diffusion.prediction": "v"}, "or config.diffusion.prediction=eps"),
        (
            {
                "diffusion.process": "cosine",
                "diffusion.steps": 0,
                "diffusion.timesteps": "fixed",
                "diffusion.fixed_t": 1.0,
            },
            "use at most 0.9946",
        ),
        ({"embedding.drop": 0.1, "embedding.sphere": False}, "which off the unit sphere is a code like any other"),
        ({"embedding.input": "none", "model.encoder": "wrn-28-2"}, "has no effect with config.embedding.input=none"),
        (
            {"objective.name": "simclr", "diffusion.denoiser_rate": 0.5},
            "has no effect with config.objective.name=simclr",
        ),
        ({"diffusion.self_condition": True, "model.scan": True}, "set config.model.scan=False"),
    ],
)
def test_combinations_without_sense_are_refused_with_the_mend(changes, message):
    with pytest.raises(UserError, match=message):
        validate(tiny_config(**changes))


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        ("ae", {"embedding.input": "xt"}, "set config.embedding.input=x0, now xt"),
        ("ae", {"embedding.gaussian": True}, "set config.embedding.gaussian=False"),
        ("vae", {"embedding.gaussian": False, "embedding.kl_weight": 1e-5}, "set config.embedding.gaussian=True"),
        ("simclr", {"data.augment": "none"}, "compares two views .* set config.data.augment to simclr"),
        ("byol", {"data.augment": "none"}, "compares two views"),
        ("simclr", {"train.accumulate": 2}, "set config.train.accumulate=1"),
        ("simclr", {"train.batch_size": 1}, "use 2 or more"),
        ("byol", {"consistency.weight": 0.1}, "consistency.weight=0.1 has no effect with config.objective.name=byol"),
        ("vae", {"diffusion.process": "ve"}, "diffusion.process=ve has no effect with config.objective.name=vae"),
        ("mae", {"diffusion.timesteps": "adversarial"}, "diffusion.timesteps=adversarial has no effect"),
        ("ae", {"embedding.l1_weight": 0.1}, "embedding.l1_weight=0.1 has no effect"),
        ("ae", {"objective.mask_share": 0.5}, "set config.objective.name to mae"),
        ("mae", {"model.encoder": "wrn-28-2"}, "set config.model.encoder=transformer"),
    ],
)
def test_a_baseline_with_what_it_cannot_use_is_refused_with_the_mend(arm, changes, message):
    config = tiny_config()
    arms.apply(arm, config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_masks_need_more_than_one_patch():
    config = tiny_config(**{"model.variant": "Ti/8"})
    arms.apply("mae", config)
    with pytest.raises(UserError, match="images of 8x8 are one patch"):
        validate_against(config, (8, 8, 1), 1, "cpu")


def test_a_run_from_before_there_were_other_objectives_is_one_of_diffusion():
    saved = tiny_config().to_dict()
    del saved["objective"]
    assert config_lib.from_json(json.dumps(saved), config_lib.default()).objective.name == "diffusion"


def test_a_run_of_an_older_version_is_read():
    text = config_lib.to_json(tiny_config()).replace('"process": "vp"', '"process": "linear"')
    assert config_lib.from_json(text, config_lib.default()).diffusion.process == "vp"


def test_a_code_has_one_penalty_and_a_static_one_no_chain_to_agree_along():
    with pytest.raises(UserError, match=r"set one of config.embedding.l1_weight=0"):
        validate(tiny_config(**{"embedding.gaussian": True, "embedding.sphere": False, "embedding.l1_weight": 0.1}))
    with pytest.raises(UserError, match=r"or config\.embedding\.timed=True"):
        validate(tiny_config(**{"embedding.timed": False, "consistency.weight": 0.1}))


def test_a_score_at_one_fixed_level_may_have_any_weight():
    validate(tiny_config(**{"diffusion.prediction": "score", "diffusion.timesteps": "fixed"}))


@pytest.mark.parametrize(("arm", "augment"), [("ddm-contrast", "simclr"), ("byol", "simclr"), ("ddae", "crop+flip")])
def test_on_cifar10_arms_that_live_by_their_views_have_those_of_simclr(arm, augment):
    get_config = runpy.run_path(ROOT / "configs" / "cifar10.py")["get_config"]
    assert get_config().data.augment == "simclr" and get_config(f"arm={arm}").data.augment == augment
    validate(get_config(f"arm={arm}"))


@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_keeps_the_budget_and_is_valid(arm):
    plain, config = tiny_config(), tiny_config()
    arms.apply(arm, config)
    validate(config)
    fields = {line.split(" was ")[0] for line in config_lib.differences(plain, config)}
    changed = {
        name.partition(".")[0] for name in fields if not name.startswith(("optimizer.ema_", "optimizer.denoiser_"))
    }
    compares = "objective.projection" in methods.of(config).fields or arm in ("ddm-contrast", "soda")
    views = {"data", "consistency"} if compares else set()  # the tiny config draws none
    assert changed <= {"name", "diffusion", "embedding", "objective"} | views
    assert "L = " in arms.ARMS[arm].__doc__ or "`drl`" in arms.ARMS[arm].__doc__


@pytest.mark.parametrize(
    ("changes", "shape", "devices", "message"),
    [
        ({"model.variant": "Ti/3"}, (32, 32, 3), 1, "patch 3 does not divide images of 32x32; use a patch of 1, 2, 4"),
        ({}, (8, 8, 1), 3, r"batch_size=16 does not divide over 3 devices .*; use a multiple of 3"),
        ({"model.attention": "cudnn"}, (8, 8, 1), 1, "attention='cudnn' needs a GPU"),
        ({"mesh.data": 2}, (8, 8, 1), 8, "does not make 8 devices"),
        ({"mesh.fsdp": 3}, (8, 8, 1), 8, "does not make 8 devices"),
        ({"mesh.fsdp": 6, "train.batch_size": 24}, (8, 8, 1), 6, "mesh.fsdp=6 does not divide the model's width 16"),
        ({"data.augment": "crop", "data.crop_padding": 8}, (8, 8, 1), 1, "crop_padding=8"),
    ],
)
def test_a_config_that_does_not_fit_images_or_devices_is_refused(changes, shape, devices, message):
    with pytest.raises(UserError, match=message):
        validate_against(tiny_config(**changes), shape, devices, "cpu")


@pytest.mark.parametrize(
    "field, value",
    [
        ("model.mlp_ratio", float("inf")),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.learning_rate", float("nan")),
        ("diffusion.steps", 2**40),
        ("data.threads", 10**6),
        ("model.width", 2**40),
        ("train.batch_size", 2**31),
    ],
)
def test_numbers_without_bound_are_refused(field, value):
    with pytest.raises(UserError, match=rf"config\.{field}={value}; expected"):
        validate(tiny_config(**{field: value}))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model.variant": "S/1"},
            "patch 1 cuts images of 4096x4096 into 16777216 tokens, with attention of 54,043,196 GB",
        ),
        (
            {"model.variant": "S/4"},
            r"patch 4 cuts images of 4096x4096 into 1048576 tokens, with attention of .* larger patch",
        ),
        (
            {"model.variant": "S/64", "model.width": 2**20},
            r"blocks of width 1048576 have parameters of .* smaller variant",
        ),
    ],
)
def test_what_cannot_fit_into_memory_is_refused_before_it_compiles(changes, message):
    config = tiny_config(**{"model.width": None, "model.heads": None, "train.batch_size": 16} | changes)
    with pytest.raises(UserError, match=message):
        check_memory(config, (4096, 4096, 3), 1, "cpu", 24e9)


def test_what_may_fit_is_not_refused():
    for config, shape in ((tiny_config(), (8, 8, 1)), (config_lib.default(), (64, 64, 3))):
        check_memory(config, shape, 1, "cpu", 4e9)
    config = tiny_config(**{"model.variant": "XL/2", "model.width": None, "model.heads": None, "model.depth": None})
    check_memory(config, (32, 32, 4), 1, "gpu", 80e9)


def test_mesh_fills_what_is_left():
    assert mesh_shape(tiny_config(), 8) == (8, 1, 1)
    assert mesh_shape(tiny_config(**{"mesh.fsdp": 4}), 8) == (2, 4, 1)


@pytest.mark.parametrize(
    "change", [{"times": (0.5, 1.5)}, {"times": ()}, {"times": ("a",)}, {"strengths": (0.0,)}, {"name": ".."}]
)
def test_a_probe_that_cannot_run_is_refused(change):
    config = config_lib.probe_default()
    config.update(change)
    with pytest.raises(UserError):
        validate_probe(config)
