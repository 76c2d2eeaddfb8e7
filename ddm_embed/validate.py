"""Refuses a config that cannot run, before any device work, naming the field, its value and the mend."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from ddm_embed import methods
from ddm_embed.config import PROBE, SAMPLE, flatten, run_fields
from ddm_embed.data.image_file import rules_of
from ddm_embed.diffusion.sampler import SAMPLERS
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods.method import BY_ARM, check_sphere
from ddm_embed.models import patches
from ddm_embed.models.build import find_encoder, parse_variant, resolve

LARGEST = 2**31  # what no number of a config reaches


def validate(config: ConfigDict) -> None:
    """Checks all that can be known from the config alone.

    Raises:
      UserError: naming the first field that is wrong.
    """
    fields = run_fields()
    _check_fields(config, fields)
    for name, parse in (("variant", parse_variant), ("encoder", find_encoder)):
        try:
            parse(config.model[name])
        except ValueError as error:
            raise UserError(f"config.model.{name}={config.model[name]!r} {error}") from error
    model = config.model
    width, _, heads, _ = resolve(model.variant, model.width, model.depth, model.heads)
    if width % 4 or width % heads:
        raise UserError(
            f"config.model.width={width} must divide by 4 (sine-cosine positions) and by config.model.heads={heads}"
        )
    _check_idle(config, fields)
    rules_of(config.data)
    methods.of(config).check(config)
    check_sphere(config)
    if config.optimizer.warmup_steps >= config.train.steps:
        raise UserError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps} leaves nothing of "
            f"config.train.steps={config.train.steps}; make it smaller"
        )


def _check_fields(config: ConfigDict, fields: Mapping[str, Field]) -> None:
    """Each field by itself: its choices, then its range."""
    values = flatten(config)
    for name, field in fields.items():
        if field.choices and values[name] not in field.choices:
            raise UserError(f"config.{name}={values[name]!r}; use one of {', '.join(map(str, field.choices))}")
    for name, field in fields.items():
        value = values[name]
        if isinstance(value, (int, float)) and not abs(value) < LARGEST:  # also where it is NaN
            raise UserError(f"config.{name}={value}; expected a number of less than {LARGEST}")
        if value is None or (field.least is None and field.most is None):
            continue
        low, high = field.least is not None and value < field.least, field.most is not None and value > field.most
        if low or high:
            bound = f"at least {field.least}" if field.most is None else f"between {field.least} and {field.most}"
            raise UserError(f"config.{name}={value}; expected {bound}")


def _check_idle(config: ConfigDict, fields: Mapping[str, Field]) -> None:
    """A switch that was set and has no effect is a mistake."""
    values = flatten(config)
    for name, field in fields.items():
        if field.needs is None or values[name] == field.default:
            continue
        other, wanted = field.needs
        if values[other] not in wanted:
            hint = BY_ARM if other == "objective.name" else ""
            raise UserError(
                f"config.{name}={values[name]} has no effect with config.{other}={values[other]}; "
                f"set config.{other} to {' or '.join(map(str, wanted))}, or leave config.{name} as it is{hint}"
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
    what = patches.describe(image_shape)
    if least % patch or most % patch:
        common = [p for p in range(1, least + 1) if least % p == 0 and most % p == 0]
        raise UserError(
            f"config.model.variant={config.model.variant!r}: patch {patch} does not divide {what}; "
            f"use a patch of {', '.join(map(str, common))}"
        )
    methods.of(config).check_images(config, image_shape)
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
    channels = find_encoder(model.encoder).channels
    if channels and channels % fsdp:
        raise UserError(
            f"config.mesh.fsdp={fsdp} does not divide the {channels} channels that {model.encoder} begins with"
        )


def check_memory(
    config: ConfigDict, image_shape: tuple[int, int, int], devices: int, platform: str, memory: float
) -> None:
    """Refuses, before anything is compiled, a config whose step cannot fit: by the least that it takes of a device.

    That is a block's parameters with their average and AdamW's two moments, in float32, for every block; and for one
    block the tokens of a part of the batch, and their attention where it is kept whole.

    Args:
      memory: bytes of a device.

    Raises:
      UserError: it takes more; names what takes most, and the mend.
    """
    model = config.model
    width, depth, heads, patch = resolve(model.variant, model.width, model.depth, model.heads)
    data, fsdp, tensor = mesh_shape(config, devices)
    tokens = patches.tokens(image_shape, patch)
    attention_is_kept = platform != "gpu" or model.attention == "xla"  # a GPU's fused attention keeps none
    number = config.train.batch_size / (data * fsdp * config.train.accumulate)
    takes = {
        "attention": 2 * number * heads / tensor * tokens**2 if attention_is_kept else 0,
        "tokens": 2 * number * tokens * width,
        "parameters": 16 * depth * width**2 * (4 + 2 * model.mlp_ratio) / (fsdp * tensor),
    }
    if sum(takes.values()) <= memory:
        return
    most = max(takes, key=takes.get)
    what = f"{most} of {takes[most] / 1e9:,.0f} GB on a device with {memory / 1e9:,.0f} GB"
    if most == "parameters":
        raise UserError(
            f"config.model.variant={model.variant!r}: {depth} blocks of width {width} have {what}; use a smaller "
            "variant, or more devices with config.mesh.fsdp"
        )
    raise UserError(
        f"config.model.variant={model.variant!r}: patch {patch} cuts {patches.describe(image_shape)} into {tokens} "
        f"tokens, with {what}; use a larger patch, smaller images or a smaller config.train.batch_size"
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
    _check_fields(config, PROBE)
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
    _check_fields(config, SAMPLE)
    _check_times(config.times)


def _check_times(times: tuple) -> None:
    if not times or not all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in times):
        raise UserError(f"config.times={times}: expected noise levels between 0 and 1")


def check_feature(feature: str, names: list[str]) -> None:
    """Raises UserError unless a run offers this feature."""
    if feature not in names:
        raise UserError(f"feature={feature!r}: this run has none of that name; use one of {', '.join(names)}")
