"""config -> the diffusion process, objective and networks that training, evaluation and decoding share."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import LEAST, Image, Level, expand
from ddm_embed.diffusion.process import PROCESSES, Process
from ddm_embed.diffusion.timesteps import Timesteps
from ddm_embed.errors import UserError
from ddm_embed.methods import networks as baseline_networks
from ddm_embed.methods.diffusion import WEIGHTS, Lambda, Networks, Objective
from ddm_embed.methods.reconstruction import Autoencoder, MaskedAutoencoder, visible_tokens
from ddm_embed.methods.supervised import Supervised
from ddm_embed.methods.views import Byol, SimClr
from ddm_embed.models import patches
from ddm_embed.models.auxiliary import MaskedDecoder
from ddm_embed.models.build import Models, build, resolve
from ddm_embed.models.layers import Trunk

Baseline = Autoencoder | MaskedAutoencoder | SimClr | Byol | Supervised

DIFFUSION, SUPERVISED, UNTRAINED = "diffusion", "supervised", "none"
OBJECTIVES = (DIFFUSION, "autoencoder", "vae", "simclr", "byol", "mae", SUPERVISED, UNTRAINED)


def make_process(config: ConfigDict) -> Process:
    """The config's process: a chain of `diffusion.steps`, or in continuous time where that is 0."""
    process = PROCESSES[config.diffusion.process]()
    return process.chain(config.diffusion.steps) if config.diffusion.steps else process


def make_objective(config: ConfigDict) -> Objective | Baseline | None:
    """The config's loss; None where nothing is trained."""
    if config.objective.name != DIFFUSION:
        return _make_baseline(config)
    diffusion, embedding = config.diffusion, config.embedding
    return Objective(
        process=make_process(config),
        prediction=diffusion.prediction,
        timesteps=Timesteps(
            law=diffusion.timesteps,
            fixed=diffusion.fixed_t,
            logit_mean=diffusion.logit_mean,
            logit_std=diffusion.logit_std,
            adversary_temperature=diffusion.adversary_temperature,
        ),
        weight=make_weight(diffusion.weight),
        min_snr_gamma=diffusion.min_snr_gamma,
        encoder_input=embedding.input,
        consistency_weight=config.consistency.weight,
        kl_weight=embedding.kl_weight,
        l1_weight=embedding.l1_weight,
        mixup=embedding.mixup,
        drop=embedding.drop,
    )


def _make_baseline(config: ConfigDict) -> Baseline | None:
    objective, model = config.objective, config.model
    if objective.name in ("autoencoder", "vae"):
        return Autoencoder(config.embedding.kl_weight)
    if objective.name == "mae":
        patch = resolve(model.variant, model.width, model.depth, model.heads)[3]
        return MaskedAutoencoder(patch, objective.mask_share, objective.normalise)
    if objective.name == "simclr":
        return SimClr(objective.temperature)
    return {"byol": Byol(), SUPERVISED: Supervised(), UNTRAINED: None}[objective.name]


def passes(config: ConfigDict) -> dict[str, int]:
    """How many forward passes the training on one image is worth to a network, where that is not 3.

    A pass with a gradient is worth 3: one forward and twice that backward (Kaplan et al. 2020, arXiv 2001.08361, sec.
    2.1). Two views are two passes, and a target network's are forward alone.
    """
    return {
        DIFFUSION: {"encoder": 4} if config.consistency.weight > 0 else {},
        "simclr": {"encoder": 6, "projector": 6},
        "byol": {"encoder": 8, "projector": 8, "predictor": 6},
        UNTRAINED: {"encoder": 0},
    }.get(config.objective.name, {})


def make_weight(name: str) -> str | Lambda:
    """A weight of the objective's own, or the function that MODULE:FUNCTION names.

    Raises:
      UserError: it is neither.
    """
    if name in WEIGHTS:
        return name
    module, colon, function = name.partition(":")
    known = f"use one of {', '.join(WEIGHTS)}, or MODULE:FUNCTION, a lambda(t, alpha, sigma) on the score's error"
    if not colon:
        raise UserError(f"config.diffusion.weight={name!r}; {known}")
    try:
        weight = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"config.diffusion.weight={name!r}: {error}; {known}") from error
    if not callable(weight):
        raise UserError(f"config.diffusion.weight={name!r} is no function; {known}")
    return weight


def check_weight(name: str) -> None:
    """Tries a weight on three noise levels.

    Raises:
      UserError: there is none of this name, or its function does not give a finite number for each.
    """
    weight = make_weight(name)
    if isinstance(weight, str):
        return
    alpha, sigma = PROCESSES["vp"]().marginal(levels := jnp.array([0.1, 0.5, 0.9]))
    try:
        values = jnp.asarray(weight(levels, alpha, sigma))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.diffusion.weight={name!r} does not take (t, alpha, sigma): {error}") from error
    if values.shape != (3,) or not bool(jnp.all(jnp.isfinite(values))):
        raise UserError(
            f"config.diffusion.weight={name!r} gives {values} for three noise levels; expected three numbers"
        )


def make_models(
    config: ConfigDict, image_shape: tuple[int, int, int], platform: str | None = None, classes: int | None = None
) -> Models:
    """The modules of a config for images of (height, width, channel), computing as suits the platform.

    Args:
      platform: "cpu", "gpu" or "tpu"; the default backend's if None.
      classes: how many the training images have, where they are classified.
    """
    platform = platform or jax.default_backend()
    model = config.model
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    attention = model.attention
    if attention == "auto":
        width, _, heads, _ = resolve(model.variant, model.width, model.depth, model.heads)
        attention = "cudnn" if platform == "gpu" and dtype == "bfloat16" and cudnn_takes(width // heads) else "xla"
    visible = None
    if config.objective.name == "mae":
        patch = resolve(model.variant, model.width, model.depth, model.heads)[3]
        visible = visible_tokens(patches.tokens(image_shape, patch), config.objective.mask_share)
    return build(
        variant=model.variant,
        image_shape=image_shape,
        embedding_dim=None if config.embedding.input == "none" else config.embedding.dim,
        sphere=config.embedding.sphere,
        gaussian=config.embedding.gaussian,
        encoder=model.encoder,
        consistency=config.consistency.weight > 0,
        adversary=config.diffusion.timesteps == "adversarial",
        objective=config.objective.name,
        projection=config.objective.projection,
        hidden=config.objective.hidden,
        visible=visible,
        classes=classes,
        width=model.width,
        depth=model.depth,
        encoder_depth=model.encoder_depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        qk_norm=model.qk_norm,
        attention=attention,
        remat=model.remat,
        scan=model.scan,
        dtype=jnp.dtype(dtype),
    )


def cudnn_takes(head_dim: int) -> bool:
    """Whether cuDNN's fused attention handles heads of this many dimensions on this GPU (Ampere or later)."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))  # "9.0"; ROCm's are names such as gfx90a
    return capability[:1].isdigit() and float(capability) >= 8.0 and head_dim % 8 == 0 and head_dim <= 128


def make_networks(
    models: Models, config: ConfigDict, place: Callable[[Array], Array] | None = None
) -> Networks | baseline_networks.Networks:
    """The modules as the functions of parameters that objective, probe and samplers take.

    `place`, if given, says within transformers where the tokens lie between blocks, as in `layers.Trunk`.

    A network sees x_t scaled to about unit variance, x_t / sqrt(alpha^2 + sigma^2), which changes nothing in a
    variance-preserving process; and what it puts out is scaled by the size of what it predicts: 1 / sigma for a score
    (Song et al. 2021, arXiv 2011.13456, their code), sqrt(alpha^2 + sigma^2) for v. A static encoder is told t = 0.
    """
    if config.objective.name != DIFFUSION:
        return _make_baseline_networks(models, place)
    process, prediction = make_process(config), config.diffusion.prediction
    noised = config.embedding.input in ("xt", "view")
    denoiser, encoder = _placed(models.denoiser, place), _placed(models.encoder, place)

    def size(t: Level) -> Image:
        alpha, sigma = process.marginal(t)
        return expand(jnp.sqrt(alpha**2 + sigma**2))

    def denoise(params, xt, t, z):
        output, tokens = denoiser.apply({"params": params["denoiser"]}, xt / size(t), t, z)
        if prediction == "score":
            output = output / expand(jnp.maximum(process.marginal(t)[1], LEAST))
        if prediction == "v":
            output = output * size(t)
        return output, tokens

    def encode(params, image, t):
        image = image / size(t) if noised else image
        told = t if config.embedding.timed else jnp.zeros_like(t)
        return encoder.apply({"params": params["encoder"]}, image, told)

    def predict(params, z, t):
        return models.predictor.apply({"params": params["predictor"]}, z, t)

    return Networks(
        denoise=denoise,
        encode=models.encoder and encode,
        predict=models.predictor and predict,
        time_logits=models.adversary and (lambda params: params["adversary"]["logits"]),
    )


def _placed(module: Any, place: Callable[[Array], Array] | None) -> Any:
    return module.clone(place=place) if place and isinstance(module, Trunk) else module


def _make_baseline_networks(
    models: Models, place: Callable[[Array], Array] | None = None
) -> baseline_networks.Networks:
    """As `make_networks`. An encoder is told t = 0. A decoder of codes is the denoiser, told z at t = 1, where there is
    nothing of the image in its input, which is 0."""
    encoder, decoder = _placed(models.encoder, place), _placed(models.decoder, place)

    def encode(params, image, t, visible=None):
        seen = () if visible is None else (visible,)
        return encoder.apply({"params": params["encoder"]}, image, jnp.zeros_like(t), *seen)

    def decode(params, z):
        nothing = jnp.zeros((len(z), *models.image_shape))
        return decoder.apply({"params": params["decoder"]}, nothing, jnp.ones(len(z)), z)[0]

    def fill(params, tokens, order):
        return decoder.apply({"params": params["decoder"]}, tokens, order, jnp.zeros(len(tokens)))

    def head(name):
        module = getattr(models, name)
        return module and (lambda params, z: module.apply({"params": params[name]}, z))

    masked = isinstance(decoder, MaskedDecoder)
    return baseline_networks.Networks(
        encode=encode,
        decode=decode if decoder and not masked else None,
        fill=fill if masked else None,
        project=head("projector"),
        predict=head("predictor"),
        classify=head("classifier"),
    )
