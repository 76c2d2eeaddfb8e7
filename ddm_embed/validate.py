"""Refuses a config that cannot run, before any device work, naming the field, its value and the mend."""

from ml_collections import ConfigDict

from ddm_embed.bounds import CHOICES, IDLE, PROBE_RANGES, RANGES, SAMPLE_RANGES
from ddm_embed.config import default
from ddm_embed.diffusion.sampler import SAMPLERS
from ddm_embed.errors import UserError
from ddm_embed.methods.system import DIFFUSION, check_weight, make_process
from ddm_embed.models import patches
from ddm_embed.models.build import TRANSFORMER, check_encoder, parse_variant, resolve
from ddm_embed.models.wide_resnet import FIRST


def validate(config: ConfigDict) -> None:
    """Checks all that can be known from the config alone.

    Raises:
      UserError: naming the first field that is wrong.
    """
    _check_choices(config)
    _check_ranges(config, RANGES)
    try:
        parse_variant(config.model.variant)
    except ValueError as error:
        raise UserError(f"config.model.variant={config.model.variant!r} {error}") from error
    try:
        check_encoder(config.model.encoder)
    except ValueError as error:
        raise UserError(f"config.model.encoder={config.model.encoder!r} {error}, or {TRANSFORMER}") from error
    model = config.model
    width, _, heads, _ = resolve(model.variant, model.width, model.depth, model.heads)
    if width % 4 or width % heads:
        raise UserError(
            f"config.model.width={width} must divide by 4 (sine-cosine positions) and by config.model.heads={heads}"
        )
    _check_idle(config)
    _check_code(config)
    if config.objective.name == DIFFUSION:
        _check_diffusion(config)
    else:
        _check_baseline(config)
    if config.embedding.input == "view" and config.data.augment == "none":
        raise UserError("config.embedding.input='view' needs views; set config.data.augment to flip, crop or crop+flip")
    if config.optimizer.warmup_steps >= config.train.steps:
        raise UserError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps} leaves nothing of "
            f"config.train.steps={config.train.steps}; make it smaller"
        )


def _check_idle(config: ConfigDict) -> None:
    """A switch that was set and has no effect is a mistake."""
    usual = default()
    for name, (other, values) in IDLE.items():
        if _field(config, name) != _field(usual, name) and _field(config, other) not in values:
            raise UserError(
                f"config.{name}={_field(config, name)} has no effect with config.{other}={_field(config, other)}; "
                f"set config.{other} to {' or '.join(map(str, values))}, or leave config.{name} as it is"
            )


def _check_code(config: ConfigDict) -> None:
    """Switches of the embedding that contradict one another."""
    embedding = config.embedding
    if embedding.input == "none":
        asked = {
            "consistency.weight": config.consistency.weight,
            "embedding.gaussian": embedding.gaussian,
            "embedding.l1_weight": embedding.l1_weight,
            "embedding.mixup": embedding.mixup,
            "embedding.drop": embedding.drop,
        }
        for name, value in asked.items():
            if value:
                raise UserError(
                    f"config.{name}={value} needs an encoder, and config.embedding.input=none has none; "
                    f"set config.embedding.input to x0, xt or view, or config.{name} to {type(value)(0)}"
                )
    if embedding.drop and not embedding.sphere:
        raise UserError(
            f"config.embedding.drop={embedding.drop} withholds codes by telling 0, which off the unit sphere is a code "
            "like any other; set config.embedding.sphere=True, or config.embedding.drop=0"
        )
    if embedding.gaussian and embedding.sphere:
        raise UserError(
            "config.embedding.gaussian=True needs room that the unit sphere has not; set config.embedding.sphere=False"
        )
    if embedding.gaussian and embedding.l1_weight > 0:
        raise UserError(
            f"config.embedding.l1_weight={embedding.l1_weight} is of a deterministic code, a Gaussian one has "
            "config.embedding.kl_weight; set one of config.embedding.l1_weight=0 and config.embedding.gaussian=False"
        )
    if config.consistency.weight > 0 and embedding.input == "x0" and not embedding.timed:
        raise UserError(
            f"config.consistency.weight={config.consistency.weight} compares the codes of two noise levels, and a "
            "static code of x0 has one for all; set it to 0, or config.embedding.timed=True"
        )


def _check_baseline(config: ConfigDict) -> None:
    """What a method other than diffusion cannot do with."""
    name, embedding = config.objective.name, config.embedding
    if embedding.input != "x0" or embedding.timed:
        raise UserError(
            f"config.objective.name={name} knows no noise: its encoder sees the image and is told no t; set "
            f"config.embedding.input=x0, now {embedding.input}, and config.embedding.timed=False, now {embedding.timed}"
        )
    if embedding.gaussian != (name == "vae"):
        raise UserError(
            f"config.embedding.gaussian={embedding.gaussian} with config.objective.name={name}: of the baselines, vae "
            f"has a Gaussian code and the others none; set config.embedding.gaussian={name == 'vae'}"
        )
    if name in ("simclr", "byol") and config.data.augment == "none":
        raise UserError(
            f"config.objective.name={name} compares two views of an image, and config.data.augment=none draws none; "
            "set config.data.augment to simclr, or another"
        )
    if name == "simclr" and config.train.accumulate > 1:
        raise UserError(
            f"config.train.accumulate={config.train.accumulate} splits the batch, and config.objective.name=simclr "
            "compares each image with all others in it; set config.train.accumulate=1"
        )
    if name == "simclr" and config.train.batch_size < 2:
        raise UserError(
            "config.train.batch_size=1: config.objective.name=simclr compares an image with others; use 2 or more"
        )
    if name == "mae" and config.model.encoder != TRANSFORMER:
        raise UserError(
            f"config.model.encoder={config.model.encoder} sees all pixels, and config.objective.name=mae shows the "
            f"encoder some patches alone; set config.model.encoder={TRANSFORMER}"
        )


def _check_diffusion(config: ConfigDict) -> None:
    diffusion = config.diffusion
    if diffusion.steps == 1:
        raise UserError("config.diffusion.steps=1; expected 0, which is continuous time, or a chain of 2 or more")
    check_weight(diffusion.weight)
    kind = diffusion.prediction, diffusion.weight
    if kind in (("score", "simple"), ("x0", "sigma2")) and diffusion.timesteps != "fixed":
        mend = {"score": "sigma2", "x0": "min_snr"}[diffusion.prediction]
        raise UserError(
            f"config.diffusion.prediction={kind[0]} with config.diffusion.weight={kind[1]} has a loss that grows "
            f"without bound as t nears 0; use config.diffusion.weight={mend}"
        )
    if diffusion.process == "ve" and kind == ("v", "simple") and diffusion.timesteps != "fixed":
        raise UserError(
            "config.diffusion.prediction=v with config.diffusion.weight=simple weighs the levels of config.diffusion."
            "process=ve by sigma^2, up to 2500; use config.diffusion.weight=sigma2 or config.diffusion.prediction=eps"
        )
    last = make_process(config).last
    if diffusion.timesteps == "fixed" and diffusion.fixed_t > last:
        raise UserError(
            f"config.diffusion.fixed_t={diffusion.fixed_t}: there is next to nothing left of the image at that t under "
            f"config.diffusion.process={diffusion.process}; use at most {last:g}"
        )


def validate_against(config: ConfigDict, image_shape: tuple[int, int, int], devices: int, platform: str) -> None:
    """Checks the config against the images, (height, width, channel), whose height is 1 of sequences, and the devices:
    how many, and "cpu", "gpu" or "tpu".

    Raises:
      UserError: naming the first field that is wrong.
    """
    height, width, _ = image_shape
    model = config.model
    model_width, _, _, patch = resolve(model.variant, model.width, model.depth, model.heads)
    sequence = patches.is_sequence(image_shape)
    least, most = (width, width) if sequence else sorted((height, width))
    what = f"sequences of {width} samples" if sequence else f"images of {height}x{width}"
    if least % patch or most % patch:
        common = [p for p in range(1, least + 1) if least % p == 0 and most % p == 0]
        raise UserError(
            f"config.model.variant={config.model.variant!r}: patch {patch} does not divide {what}; "
            f"use a patch of {', '.join(map(str, common))}"
        )
    if config.objective.name == "mae" and patches.tokens(image_shape, patch) == 1:
        raise UserError(
            f"config.model.variant={model.variant!r}: {what} are one patch, and "
            "config.objective.name=mae shows the encoder some of several; use a smaller patch"
        )
    if sequence and config.data.augment not in ("none", "crop"):
        raise UserError(
            f"config.data.augment={config.data.augment}: played backwards, stretched or coloured, a sequence is "
            "another one; use crop, which shifts it in time, or none"
        )
    padding = config.data.crop_padding
    if "crop" in config.data.augment and padding is not None and padding >= least:
        raise UserError(f"config.data.crop_padding={padding} must be less than the side of {what}, {least}")
    if model.attention == "cudnn" and platform != "gpu":
        raise UserError(f"config.model.attention='cudnn' needs a GPU, this is a {platform}; use auto")
    if model.attention == "cudnn" and model.dtype == "float32":
        raise UserError("config.model.attention='cudnn' needs config.model.dtype=bfloat16; use auto")
    data, fsdp, tensor = mesh_shape(config, devices)
    parts = data * fsdp * config.train.accumulate
    if config.train.batch_size % parts:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} does not divide over {data * fsdp} devices "
            f"(mesh.data={data} x mesh.fsdp={fsdp}) and train.accumulate={config.train.accumulate}; "
            f"use a multiple of {parts}"
        )
    heads = resolve(model.variant, model.width, model.depth, model.heads)[2]
    hidden = round(model_width * model.mlp_ratio)
    if heads % tensor or hidden % tensor:
        raise UserError(
            f"config.mesh.tensor={tensor} must divide the model's {heads} heads and its MLP's {hidden} hidden units"
        )
    if model_width % fsdp:
        raise UserError(f"config.mesh.fsdp={fsdp} does not divide the model's width {model_width}")
    if model.encoder != TRANSFORMER and FIRST % fsdp:
        raise UserError(
            f"config.mesh.fsdp={fsdp} does not divide the {FIRST} channels that {model.encoder} begins with"
        )


def mesh_shape(config: ConfigDict, devices: int) -> tuple[int, int, int]:
    """(data, fsdp, tensor), their product the number of devices.

    Raises:
      UserError: they do not multiply to it.
    """
    data, fsdp, tensor = config.mesh.data, config.mesh.fsdp, config.mesh.tensor
    if data == -1 and devices % (fsdp * tensor) == 0:
        data = devices // (fsdp * tensor)
    if data < 1 or data * fsdp * tensor != devices:
        raise UserError(
            f"config.mesh.data={config.mesh.data} x config.mesh.fsdp={fsdp} x config.mesh.tensor={tensor} does not "
            f"make {devices} devices; set mesh.data to -1, and mesh.fsdp and mesh.tensor to divisors"
        )
    return data, fsdp, tensor


def validate_probe(config: ConfigDict) -> None:
    """Checks the probe's config.

    Raises:
      UserError: naming the first field that is wrong.
    """
    _check_ranges(config, PROBE_RANGES)
    _check_times(config.times)
    if not config.strengths or not all(isinstance(s, (int, float)) and s > 0 for s in config.strengths):
        raise UserError(f"config.strengths={config.strengths}: expected ridge penalties above 0")
    if config.name in ("", ".", "..") or "/" in config.name:
        raise UserError(f"config.name={config.name!r}: expected the name of a folder")


def validate_sample(config: ConfigDict) -> None:
    """Checks the config of the program that draws pictures.

    Raises:
      UserError: naming the first field that is wrong.
    """
    if config.sampler not in SAMPLERS:
        raise UserError(f"config.sampler={config.sampler!r}; use one of {', '.join(SAMPLERS)}")
    _check_ranges(config, SAMPLE_RANGES)
    _check_times(config.times)


def _check_times(times: tuple) -> None:
    if not times or not all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in times):
        raise UserError(f"config.times={times}: expected noise levels between 0 and 1")


def _field(config: ConfigDict, name: str):
    for part in name.split("."):
        config = config[part]
    return config


def _check_choices(config: ConfigDict) -> None:
    for name, choices in CHOICES.items():
        value = _field(config, name)
        if value not in choices:
            raise UserError(f"config.{name}={value!r}; use one of {', '.join(choices)}")


def _check_ranges(config: ConfigDict, ranges: dict) -> None:
    for name, (least, most) in ranges.items():
        value = _field(config, name)
        if value is None:
            continue
        low, high = least is not None and value < least, most is not None and value > most
        if low or high or value != value:
            bound = f"at least {least}" if most is None else f"between {least} and {most}"
            raise UserError(f"config.{name}={value}; expected {bound}")


def check_feature(feature: str, names: list[str]) -> None:
    """Raises UserError unless a run offers this feature."""
    if feature not in names:
        raise UserError(f"feature={feature!r}: this run has none of that name; use one of {', '.join(names)}")
