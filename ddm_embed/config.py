"""The default config of a training run, and what it is as JSON.

Config files start from `default()`, change what makes them what they are, and lock. A field without a value is a
placeholder of its type, so that a flag can set it.
"""

import ast
import difflib
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddm_embed.errors import UserError

# A resumed run may change these: they say where and how often, not what is computed.
FREE_FIELDS = (
    "data.data_dir",
    "data.resident_gib",
    "data.threads",
    "mesh.",
    "model.remat",
    "probe.",
    "train.accumulate",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.picture_every",
)

RENAMED = {("diffusion.process", "linear"): "vp"}  # what runs of version 0.1.0 called DDPM's chain


def default() -> ConfigDict:
    """A small self-conditional run on the embedded digits; README's reference is made of these comments."""
    c = ConfigDict()
    c.name = "default"  # names the work directory when --workdir is not given: runs/NAME

    c.data = data = ConfigDict()
    data.name = "digits"  # digits, tfds:NAME, folder:PATH or arrays:PATH
    data.data_dir = placeholder(str)  # where TFDS datasets are prepared; TFDS_DATA_DIR, then TFDS's own default
    data.image_size = placeholder(int)  # resize a folder's images to this square: shorter side, then centre crop
    data.test_fraction = 0.2  # share of a labelled dataset without a test split that is kept for the probe
    data.augment = "none"  # none, flip, crop, crop+flip, resized+flip or simclr: views drawn on the device
    data.crop_padding = placeholder(int)  # pixels of reflection around a crop; an eighth of the height
    data.resident_gib = 2.0  # a training set up to this many GiB is kept on the devices, a larger one is streamed
    data.threads = 4  # threads that read and decode images

    c.model = model = ConfigDict()
    model.variant = "S/4"  # Ti, S, B, L or XL, and the side of a patch in pixels, of sequences in samples
    model.width = placeholder(int)  # in place of the variant's width
    model.depth = placeholder(int)  # in place of the variant's number of denoiser blocks
    model.encoder = "transformer"  # transformer, of the denoiser's own blocks, or wrn-28-2, wrn-28-4: a Wide ResNet
    model.encoder_depth = placeholder(int)  # blocks of a transformer encoder; as many as the denoiser's
    model.heads = placeholder(int)  # in place of the variant's attention heads
    model.mlp_ratio = 4.0  # hidden width of a block's MLP over its width
    model.qk_norm = False  # RMS-normalise queries and keys
    model.attention = "auto"  # auto, xla or cudnn; auto is cudnn where a GPU computes in bfloat16
    model.remat = "none"  # none, dots or full: what of a block is computed again in the backward pass, to save memory
    model.scan = False  # the blocks as one scan: compiles in half the time, runs slower
    model.dtype = "auto"  # auto, float32 or bfloat16; auto is bfloat16 on GPU and TPU, float32 on CPU

    c.embedding = embedding = ConfigDict()
    embedding.input = "x0"  # what the encoder sees: x0 (the image), xt (noised), view (another view, noised), none
    embedding.dim = 256  # entries of z
    embedding.sphere = True  # z on the unit sphere
    embedding.timed = True  # the encoder is told t; False: one static code for all noise levels
    embedding.gaussian = False  # a Gaussian code, as a variational encoder's; sphere must be False
    embedding.kl_weight = 1e-5  # of a Gaussian code's KL to N(0, I), summed over its entries; vae's beta
    embedding.l1_weight = 0.0  # of the L1 norm of a code that is not Gaussian
    embedding.mixup = False  # the encoder sees l x_i + (1 - l) x_j, and the loss of x_i weighs 2 l
    embedding.drop = 0.0  # share of the images whose z is withheld, so that samples without a z can be drawn

    c.objective = objective = ConfigDict()
    objective.name = "diffusion"  # diffusion, or a baseline: autoencoder, vae, simclr, byol, mae, supervised, none
    objective.temperature = 0.5  # of simclr's cosines
    objective.projection = 128  # entries of the projection that simclr and byol compare
    objective.hidden = 512  # hidden units of that projection, and of byol's predictor
    objective.mask_share = 0.75  # of the patches that mae's encoder does not see
    objective.normalise = True  # mae predicts each patch less its mean, over its standard deviation

    c.consistency = consistency = ConfigDict()
    consistency.weight = 0.0  # weight of aligning z_t with the EMA encoder's z_s, s < t; 0 switches it off

    c.diffusion = diffusion = ConfigDict()
    diffusion.process = "vp"  # vp, sub_vp, ve, cosine or rectified_flow; vp with 1000 steps is DDPM's linear chain
    diffusion.steps = 1000  # T, the length of the chain; 0: continuous time
    diffusion.prediction = "eps"  # eps, x0, v, flow (eps - x0) or score
    diffusion.weight = "simple"  # simple, sigma2, min_snr, or MODULE:FUNCTION, a lambda(t, alpha, sigma) on the score
    diffusion.min_snr_gamma = 5.0  # where min_snr clips the signal-to-noise ratio
    diffusion.timesteps = "stratified"  # stratified, uniform, fixed, sigma, logit_normal or adversarial
    diffusion.fixed_t = 0.8  # the one noise level of the fixed law
    diffusion.logit_mean = 0.0  # of logit(t) under the logit_normal law
    diffusion.logit_std = 1.0  # its standard deviation
    diffusion.adversary_temperature = 1.0  # of the adversarial law: high, and all levels are drawn alike

    c.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3  # AdamW's peak, reached after the warm-up
    optimizer.warmup_steps = 100  # linear from 0; then a cosine down to 0 at train.steps
    optimizer.weight_decay = 0.0  # on matrices, not on biases and scales
    optimizer.b1 = 0.9  # AdamW's decay of the gradient's mean
    optimizer.b2 = 0.99  # and of its square
    optimizer.clip_norm = 1.0  # global norm of the gradient; 0 switches clipping off
    optimizer.ema_decay = 0.999  # of the averaged parameters that are probed; ramps up over the first steps

    c.train = train = ConfigDict()
    train.steps = 1000  # in all; the learning rate reaches 0 there
    train.batch_size = 64  # images a step, over all devices
    train.accumulate = 1  # parts of a batch whose gradients are added up, one after the other, to save memory
    train.seed = 0  # of initialisation, data order, noise and views
    train.log_every = 100  # steps
    train.checkpoint_every = 1000  # steps; the last step is always saved
    train.keep_checkpoints = 3  # newest kept
    train.picture_every = 1000  # steps; 0 draws no pictures

    c.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices that split the batch; -1: all that fsdp leaves
    mesh.fsdp = 1  # devices that split the batch and the parameters
    mesh.tensor = 1  # devices that split each block's heads and hidden units

    c.probe = probe = ConfigDict()
    probe.after_training = True  # probe the last checkpoint when training ends
    return c.lock()


def probe_default() -> ConfigDict:
    """The default config of the probe program."""
    c = ConfigDict()
    c.name = "linear"  # results go to W/probe/NAME
    c.protocols = ("ridge", "knn")  # the first is the main one; probe/protocols.py and README list all
    c.times = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # noise levels to read features at
    c.strengths = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)  # ridge penalties, relative to the number of images
    c.logistic_strengths = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)  # of logistic regression, likewise
    c.neighbours = 20  # k of the nearest-neighbour head
    c.temperature = 0.07  # of its votes: exp(cosine / temperature)
    c.validation_fraction = 0.2  # share of the training images held out to choose layer, t and hyper-parameter
    c.seed = 0  # of the held-out split, the noise draws and what is random in heads
    c.noise_draws = 5  # draws of the test images' noise over which the test accuracy is averaged
    c.averaged_draws = 1  # draws of the noise over which every feature, of training and test images, is averaged
    c.batch_size = 500  # images a forward pass, over all devices
    c.selection_images = 10_000  # most training images on which feature, t and hyper-parameter are chosen
    c.training_images = 100_000  # most training images on which the chosen head is fitted
    c.features_gib = placeholder(float)  # features kept in memory, the rest goes to disk; a quarter of the memory
    c.recipe = ""  # settings of recipes (heads/recipes.py) to change: epochs=3;batch_size=64. Their names then end in *
    c.shots = (1, 5, 10)  # labels a class of fewshot, propagation and semi
    c.shot_draws = 20  # draws of them, of fewshot and propagation
    c.semi_draws = 3  # and of semi, which trains whole networks
    c.measures = True  # label-free measures at every layer and t, the map and the neighbours of the report
    c.measure_images = 500  # training images that they are taken on
    c.readers = ("single", "mean", "concatenate", "attention", "gru", "learned_t")  # of the protocol trajectory
    c.reader_feature = placeholder(str)  # that they read; z, or a middle block where there is none
    c.reader_levels = (5, 10)  # k: the trajectory's levels are 0, 1/k, ..., 1
    c.reader_rates = (1e-3, 2.5e-4, 5e-5)  # learning rates of attention and gru
    c.learned_t_rates = (1e-2, 3e-2, 1e-1)  # and of learned_t
    c.reader_epochs = 100  # of attention, gru and learned_t
    c.reader_width = 256  # of attention and gru
    return c.lock()


def sample_default() -> ConfigDict:
    """The default config of the program that draws pictures."""
    c = ConfigDict()
    c.sampler = "ddim"  # ancestral, ddim, euler, heun, dpmpp_2m or langevin
    c.steps = 50  # of the sampler
    c.images = 8  # test images shown
    c.samples = 8  # made of each
    c.times = (0.2, 0.5, 0.8)  # noise levels whose codes are shown; `detail` reads the middle one
    c.training_images = 1000  # training images in scatter plots, curves and `detail`
    c.beside = ""  # directories of other runs on the same data, with commas, for the picture `detail`
    c.grid_range = 1.0  # the square of codes reaches from -grid_range to grid_range
    c.seed = 0  # of the noise and of the images chosen
    return c.lock()


def find_file(given: str) -> str:
    """The path and arguments of the config file that `--config` names: PATH, PATH:ARGUMENTS, or in place of a path
    the name of a config that comes with the package, as in digits:steps=500.

    Raises:
      UserError: there is no such file.
    """
    file, colon, arguments = given.partition(":")
    if Path(file).is_file():
        return given
    if not file or Path(file).name != file or file.endswith(".py"):
        raise UserError(f"--config {file}: no such file")
    package = Path(__file__).parent
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"  # a clone's
    known = {path.stem: path for path in sorted(folder.glob("*.py"))}
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


def from_json(text: str, into: ConfigDict) -> ConfigDict:
    """The config that `to_json` wrote, with the types of `into`, a default config.

    Raises:
      UserError: the text is not JSON, or it has fields that this version does not know.
    """
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config.json is not JSON ({error}); restore it or use another --workdir") from error
    if not isinstance(saved, dict):
        raise UserError("config.json is not a JSON object; restore it or use another --workdir")
    return from_dict(saved, into)


def from_dict(saved: dict[str, Any], into: ConfigDict) -> ConfigDict:
    """As `from_json`, of what its text stands for."""
    for name, value in flatten(saved).items():
        check_field(name, into)
        value = RENAMED.get((name, value) if isinstance(value, str) else None, value)
        try:
            if value is not None:
                into.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
        except TypeError as error:
            raise UserError(f"config.json: {name}={value!r} is of the wrong type; restore the file") from error
    return into


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The fields, other than `FREE_FIELDS`, in which a run directory's config and the one asked for differ."""
    a, b = flatten(old), flatten(new)
    return [
        f"{name} was {a.get(name)!r}, is {b.get(name)!r}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and not name.startswith(FREE_FIELDS)
    ]
