"""The default config of a training run, and what it is as JSON.

Config files start from `default()`, change what makes them what they are, and lock. A field without a value is a
placeholder of its type, so that a flag can set it.
"""

import ast
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddm_embed import json_reader
from ddm_embed.errors import UserError
from ddm_embed.fields import Field

RENAMED = {("diffusion.process", "linear"): "vp"}  # what runs of version 0.1.0 called DDPM's chain
SEEN = ("x0", "xt", "view", "clean_view")  # what an encoder may see

# Of a run, but for the fields that methods declare.
RUN = {
    "name": Field("default", "names the work directory when --workdir is not given: runs/NAME", free=True),
    "data.name": Field("digits", "digits, tfds:NAME, folder:PATH or arrays:PATH"),
    "data.data_dir": Field(str, "where TFDS datasets are prepared; TFDS_DATA_DIR, then TFDS's own default", free=True),
    "data.image_size": Field(int, "resize a folder's images to this square: shorter side, then centre crop", least=1),
    "data.background": Field("white", "colour under transparent parts of image files; none drops their alpha channel"),
    "data.bit_depth": Field(int, "bits that hold the values of 16-bit image files; 16", least=8, most=16, added=True),
    "data.test_fraction": Field(
        0.2, "share of a labelled dataset without a test split that is kept for the probe", least=0.0, most=0.9
    ),
    "data.augment": Field(
        "none",
        "none, flip, crop, crop+flip, resized+flip or simclr: views drawn on the device",
        choices=("none", "flip", "crop", "crop+flip", "resized+flip", "simclr"),
    ),
    "data.crop_padding": Field(int, "pixels of reflection around a crop; an eighth of the height", least=1),
    "data.resident_gib": Field(
        2.0, "a training set up to this many GiB is kept on the devices, a larger one is streamed", least=0.0, free=True
    ),
    "data.threads": Field(4, "threads that read and decode images", least=1, most=1024, free=True),
    "model.variant": Field("S/4", "Ti, S, B, L or XL, and the side of a patch in pixels, of sequences in samples"),
    "model.width": Field(int, "in place of the variant's width", least=4),
    "model.depth": Field(int, "in place of the variant's number of denoiser blocks", least=1),
    "model.encoder": Field(
        "transformer",
        "transformer, of the denoiser's own blocks, or wrn-28-2, wrn-28-4: a Wide ResNet",
        needs=("embedding.input", SEEN),
    ),
    "model.encoder_depth": Field(int, "blocks of a transformer encoder; as many as the denoiser's", least=1),
    "model.heads": Field(int, "in place of the variant's attention heads", least=1),
    "model.mlp_ratio": Field(4.0, "hidden width of a block's MLP over its width", least=0.1, most=64.0),
    "model.qk_norm": Field(False, "RMS-normalise queries and keys"),
    "model.attention": Field(
        "auto", "auto, xla or cudnn; auto is cudnn where a GPU computes in bfloat16", choices=("auto", "xla", "cudnn")
    ),
    "model.remat": Field(
        "none",
        "none, dots or full: what of a block is computed again in the backward pass, to save memory",
        choices=("none", "dots", "full"),
        free=True,
    ),
    "model.scan": Field(False, "the blocks as one scan: compiles in half the time, runs slower"),
    "model.dtype": Field(
        "auto",
        "auto, float32 or bfloat16; auto is bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
    ),
    "embedding.input": Field(
        "x0",
        "what the encoder sees: x0 (the image), xt (noised), view (another view, noised), clean_view, none",
        choices=("none", *SEEN),
    ),
    "embedding.dim": Field(256, "entries of z", least=1),
    "embedding.sphere": Field(True, "z on the unit sphere"),
    "embedding.timed": Field(
        True,
        "the encoder is told t; False: one static code for all noise levels",
        needs=("embedding.input", SEEN),
    ),
    "embedding.gaussian": Field(False, "a Gaussian code, as a variational encoder's; sphere must be False"),
    "embedding.kl_weight": Field(
        1e-5,
        "of a Gaussian code's KL to N(0, I), summed over its entries; see penalty_unit; vae's beta",
        least=0.0,
        needs=("embedding.gaussian", (True,)),
    ),
    "embedding.penalty_unit": Field(
        "mean",
        "what the code's weights stand beside: the mean over pixels of the squared error, or sum: half its sum, as in "
        "the DRL authors' code and an evidence lower bound; vae and ae always take sum",
        choices=("mean", "sum"),
        added=True,
    ),
    "objective.name": Field("diffusion", "the method"),
    "optimizer.learning_rate": Field(1e-3, "AdamW's peak, reached after the warm-up", least=0.0),
    "optimizer.warmup_steps": Field(100, "linear from 0; then a cosine down to 0 at train.steps", least=0),
    "optimizer.weight_decay": Field(0.0, "on matrices, not on biases and scales", least=0.0),
    "optimizer.b1": Field(0.9, "AdamW's decay of the gradient's mean", least=0.0, most=0.99999),
    "optimizer.b2": Field(0.99, "and of its square", least=0.0, most=0.99999999),
    "optimizer.clip_norm": Field(1.0, "global norm of the gradient; 0 switches clipping off", least=0.0),
    "optimizer.ema_decay": Field(
        0.999, "of the averaged parameters that are probed; see ema_schedule", least=0.0, most=0.99999999
    ),
    "optimizer.ema_schedule": Field(
        "ramp",
        "ramp: ema_decay, from 0.1 up over the first steps; cosine: from ema_decay to 1 over the run, as BYOL's target",
        choices=("ramp", "cosine"),
        added=True,
    ),
    "train.steps": Field(1000, "in all; the learning rate reaches 0 there", least=1, most=2**31 - 2),
    "train.batch_size": Field(64, "images a step, over all devices", least=1),
    "train.accumulate": Field(
        1, "parts of a batch whose gradients are added up, one after the other, to save memory", least=1, free=True
    ),
    "train.seed": Field(0, "of initialisation, data order, noise and views", least=0, most=2**31 - 1),
    "train.log_every": Field(100, "steps", least=1, free=True),
    "train.checkpoint_every": Field(1000, "steps; the last step is always saved", least=1, free=True),
    "train.keep_checkpoints": Field(3, "newest kept", least=1, free=True),
    "train.picture_every": Field(1000, "steps; 0 draws no pictures", least=0, free=True),
    "mesh.data": Field(-1, "devices that split the batch; -1: all that fsdp leaves", least=-1, free=True),
    "mesh.fsdp": Field(1, "devices that split the batch and the parameters", least=1, free=True),
    "mesh.tensor": Field(1, "devices that split each block's heads and hidden units", least=1, free=True),
    "probe.after_training": Field(True, "probe the last checkpoint when training ends", free=True),
}

MOVED = Field(str, "where the run's images lie now, such as folder:PATH; where the run found them")
PROBE = {
    "name": Field("linear", "results go to W/probe/NAME"),
    "data": MOVED,
    "protocols": Field(("ridge", "knn"), "the first is the main one; docs/probe.md lists all"),
    "times": Field(
        (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "noise levels to read features at"
    ),
    "strengths": Field(
        (10.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4),
        "ridge penalties, relative to the number of images they are chosen on; of equally good ones the first",
    ),
    "logistic_strengths": Field((1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0), "of logistic regression, likewise"),
    "neighbours": Field(20, "k of the nearest-neighbour head", least=1),
    "temperature": Field(0.07, "of its votes: exp(cosine / temperature)", least=0.0001),
    "validation_fraction": Field(
        0.2, "share of the training images held out to choose layer, t and hyper-parameter", least=0.01, most=0.9
    ),
    "seed": Field(0, "of the held-out split, the noise draws and what is random in heads", least=0, most=2**31 - 1),
    "pooling": Field(
        ("mean", "2x2"),
        "how a layer's tokens are read by ridge, logistic and knn: `mean`, and in addition any of `2x2`, the means of "
        "the image's quarters, `max`, their mean and largest, and `levels`, the mean at several t side by side",
    ),
    "noise_draws": Field(5, "draws of the test images' noise over which the test accuracy is averaged", least=1),
    "averaged_draws": Field(
        1, "draws of the noise over which every feature, of training and test images, is averaged", least=1
    ),
    "batch_size": Field(500, "images a forward pass, over all devices", least=1),
    "selection_images": Field(
        10_000, "most training images on which feature, t and hyper-parameter are chosen", least=10
    ),
    "training_images": Field(100_000, "most training images on which the chosen head is fitted", least=10),
    "features_gib": Field(float, "features kept in memory, the rest goes to disk; a quarter of the memory", least=0.0),
    "recipe": Field(
        "", "settings of recipes (heads/recipes.py) to change: epochs=3;batch_size=64. Their names then end in *"
    ),
    "shots": Field((1, 5, 10), "labels a class of fewshot, propagation and semi"),
    "shot_draws": Field(20, "draws of them, of fewshot and propagation", least=1),
    "semi_draws": Field(3, "and of semi, which trains whole networks", least=1),
    "measures": Field(True, "label-free measures at every layer and t, the map and the neighbours of the report"),
    "measure_images": Field(500, "training images that they are taken on", least=3),
    "readers": Field(("single", "mean", "concatenate", "attention", "gru", "learned_t"), "of the protocol trajectory"),
    "reader_feature": Field(str, "that they read; z, or a middle block where there is none"),
    "reader_levels": Field((5, 10), "k: the trajectory's levels are 0, 1/k, ..., 1"),
    "reader_rates": Field((1e-3, 2.5e-4, 5e-5), "learning rates of attention and gru"),
    "learned_t_rates": Field((1e-2, 3e-2, 1e-1), "and of learned_t"),
    "reader_epochs": Field(100, "of attention, gru and learned_t", least=1),
    "reader_width": Field(256, "of attention and gru", least=8),
}

SAMPLE = {
    "data": MOVED,
    "sampler": Field("ddim", "ancestral, ddim, euler, heun, dpmpp_2m or langevin"),
    "steps": Field(50, "of the sampler", least=2, most=10000),
    "images": Field(8, "test images shown", least=2, most=64),
    "samples": Field(8, "made of each", least=2, most=64),
    "times": Field((0.2, 0.5, 0.8), "noise levels whose codes are shown; `detail` reads the middle one"),
    "training_images": Field(1000, "training images in scatter plots, curves and `detail`", least=10),
    "beside": Field("", "directories of other runs on the same data, with commas, for the picture `detail`"),
    "grid_range": Field(1.0, "the square of codes reaches from -grid_range to grid_range", least=1e-06),
    "seed": Field(0, "of the noise and of the images chosen", least=0, most=2**31 - 1),
}

STUDY = {
    "name": Field("study", "names the directory when --workdir is not given: runs/studies/NAME"),
    "base": Field("digits", "what all runs start from, FILE or FILE:KEY=VALUE,..., as main's --config"),
    "arms": Field(
        ("ddm",), "a row each: an arm, or ROW: KEY=VALUE ..., with arm=NAME, fields and the file's arguments"
    ),
    "seeds": Field((0, 1, 2), "of the training; each arm has a run of each"),
    "overrides": Field("", "KEY=VALUE ... of all runs, with spaces between: fields and the file's arguments"),
    "equal": Field(
        "steps",
        "what arms have alike: steps, or flops, those of the first arm, unless an arm says its steps",
        choices=("steps", "flops"),
    ),
    "probe_config": Field("probe", "the config of the probes, as the probe's --config"),
    "probe_overrides": Field("", "FIELD=VALUE ... of the probes"),
    "protocols": Field(("ridge", "knn"), "of the probes; columns of the table"),
    "table": Field("table.md", "Markdown file that is written, from the study's directory"),
    "figure": Field("figure.png", "and the figure"),
}


def run_fields() -> dict[str, Field]:
    """All fields of a run: the general ones, and those of every registered method."""
    from ddm_embed import methods  # imports JAX, which `--help` does without

    names = tuple(method.name for method in methods.all_methods())
    name = RUN["objective.name"]._replace(what=f"the method: {', '.join(names)}", choices=names)
    return RUN | {"objective.name": name} | methods.fields()


def _make(fields: Mapping[str, Field]) -> ConfigDict:
    c = ConfigDict()
    for name, field in fields.items():
        *rooms, last = name.split(".")
        room = c
        for part in rooms:
            if part not in room:
                room[part] = ConfigDict()
            room = room[part]
        room[last] = placeholder(field.default) if isinstance(field.default, type) else field.default
    return c.lock()


def default() -> ConfigDict:
    """A small self-conditional run on the embedded digits."""
    return _make(run_fields())


def probe_default() -> ConfigDict:
    """The default config of the probe program."""
    return _make(PROBE)


def sample_default() -> ConfigDict:
    """The default config of the program that draws pictures."""
    return _make(SAMPLE)


def study_default() -> ConfigDict:
    """The default config of a study."""
    return _make(STUDY)


def find_file(given: str, room: str = "") -> str:
    """The path and arguments of the config file that `--config` names: PATH, PATH:ARGUMENTS, or in place of a path
    the name of a config that comes with the package, as in digits:steps=500. room: the folder of configs/ that has it.

    Raises:
      UserError: there is no such file.
    """
    file, colon, arguments = os.path.expanduser(given).partition(":")
    if Path(file).is_file():
        return f"{file}{colon}{arguments}"
    if not file or Path(file).name != file or file.endswith(".py"):
        raise UserError(f"--config {file}: no such file")
    package = Path(__file__).parent
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"  # a clone's
    known = {path.stem: path for path in sorted((folder / room).glob("*.py"))}
    if file not in known:
        raise UserError(f"--config {file}: no such file, nor a config of this name; there are {', '.join(known)}")
    return f"{known[file]}{colon}{arguments}"


def parse_arg(arg: str, **defaults: Any) -> dict[str, Any]:
    """A config file's argument, "key=value,key=value", over the defaults that name its keys and types.

    Raises:
      UserError: an unknown key, a value of another type, or no "=".
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        key, equals, text = part.partition("=")
        if not equals or key not in defaults:
            raise UserError(f"config argument {part!r}: expected key=value with key one of {', '.join(defaults)}")
        if isinstance(defaults[key], str):
            values[key] = text
            continue
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        wanted = type(defaults[key])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise UserError(f"config argument {part!r}: {key} takes a value of type {wanted.__name__}")
        values[key] = value
    return values


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """{"train.steps": 1000, ...}; tuples as lists, as JSON returns them."""
    flat = {}
    items = config.items(preserve_field_references=False) if isinstance(config, ConfigDict) else config.items()
    for key, value in items:
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def names(value: tuple[str, ...]) -> list[str]:
    """The names in a tuple field: a flag such as `--config.protocols=ridge,knn` gives them as one text."""
    return [name for text in value for name in str(text).split(",") if name]


def check_field(name: str, default_config: ConfigDict) -> None:
    """Raises UserError unless the config has a field of this dotted name, offering the nearest that it has."""
    fields = flatten(default_config)
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        hint = f"; did you mean config.{near[0]}?" if near else f"; fields: {', '.join(fields)}"
        raise UserError(f"config.{name}: no such field{hint}")


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def identity(config: ConfigDict) -> str:
    """A run's config as JSON, the same as before this version gave it more fields."""
    fields = config.to_dict()
    added = {name: flatten(default())[name] for name, field in run_fields().items() if field.added}
    for name, value in (added | _before(config.data.name)).items():
        room, last = name.split(".")
        if fields[room][last] == value:
            del fields[room][last]
    return json.dumps(fields, indent=2) + "\n"


def _before(data_name: str) -> dict[str, Any]:
    """What runs did whose config has not these fields yet, where it is not the default."""
    return {"data.background": "none" if data_name.startswith("folder:") else "white"}


def from_json(text: str, into: ConfigDict) -> ConfigDict:
    """The config that `to_json` wrote, with the types of `into`, a default config.

    Raises:
      UserError: the text is not JSON, or it has fields that this version does not know, or of another type.
    """
    saved = json_reader.read(text, "the config", "restore it or use another --workdir")
    return from_dict(saved, into)


def from_dict(saved: dict[str, Any], into: ConfigDict) -> ConfigDict:
    """As `from_json`, of what its text stands for."""
    flat, known = flatten(saved), run_fields()["objective.name"].choices
    if "data.name" in flat:
        flat = _before(str(flat["data.name"])) | flat
    if flat.get("objective.name", known[0]) not in known:
        raise UserError(
            f"config.json: objective.name={flat['objective.name']!r} is a method that is not registered here; give the "
            "file that registers it as --config, or import it first"
        )
    for name, value in flat.items():
        check_field(name, into)
        value = RENAMED.get((name, value) if isinstance(value, str) else None, value)
        try:
            if value is not None:
                into.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
        except TypeError as error:
            raise UserError(f"config.json: {name}={value!r} is of the wrong type; restore the file") from error
    return into


def is_free(name: str) -> bool:
    """Whether a field of a run says where and how often, not what is computed."""
    field = run_fields().get(name)
    return field is not None and field.free


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The fields, other than free ones, in which a run directory's config and the one asked for differ."""
    a, b = flatten(old), flatten(new)
    return [
        f"{name} was {a.get(name)!r}, is {b.get(name)!r}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and not is_free(name)
    ]
