"""Self-conditional diffusion: the denoiser is told an embedding of the image that it denoises.

    L = E_{t, x0, eps} w(t) | target - f(x_t, t, z_t) |^2 + regularisers,    z_t = E(., t)

Jiang & Cai, arXiv 2505.05732: z_t on the sphere, the encoder seeing x0, x_t or another view, chain consistency. Mittal
et al., arXiv 2105.14257: DRL is `lambda(t) |s - grad log p_0t|^2` (prediction score, weight lambda) with an L1 norm on
z; VDRL draws z from a Gaussian and adds its KL to N(0, I). Without an encoder it is a plain diffusion model. Everything
is a switch of the one loss in `diffusion/objective.py`, and `diffusion_arms.py` has the arms.
"""

import importlib
import re
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from ddm_embed.diffusion.objective import ADVERSARY, CONSISTENCY, WEIGHTS, Lambda, Objective
from ddm_embed.diffusion.prediction import LEAST, PREDICTIONS, Image, Level, expand
from ddm_embed.diffusion.process import PROCESSES, Process
from ddm_embed.diffusion.timesteps import LAWS, Timesteps
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods.diffusion_arms import PRESETS
from ddm_embed.methods.method import Method, Networks, Params, Parts, Place, apply_of, check_sphere, placed
from ddm_embed.methods.views import check_whole_batch
from ddm_embed.models.auxiliary import Adversary, Mlp
from ddm_embed.models.build import Models, Network
from ddm_embed.models.dit import Denoiser, code_scale
from ddm_embed.models.encoder import Predictor

KNOWN_WEIGHTS = f"use one of {', '.join(WEIGHTS)}, or MODULE:FUNCTION, a lambda(t, alpha, sigma) on the score's error"
PROJECTION = 512, 128  # hidden units and entries of contrast's, as of SimCLR's here
FIELDS = {
    "embedding.l1_weight": Field(0.0, "of the L1 norm of a code that is not Gaussian", least=0.0),
    "embedding.mixup": Field(False, "the encoder sees l x_i + (1 - l) x_j, and the loss of x_i weighs 2 l"),
    "embedding.drop": Field(
        0.0, "share of the images whose z is withheld, so that samples without a z can be drawn", least=0.0, most=0.99
    ),
    "consistency.weight": Field(
        0.0, "weight of aligning z_t with the EMA encoder's z_s, s < t; 0 switches it off", least=0.0
    ),
    "consistency.kind": Field(
        "chain",
        "chain: z_s of the same image and noise; views: of another view; contrast: two views against all others",
        choices=CONSISTENCY, added=True,
    ),
    "consistency.temperature": Field(
        0.5, "of contrast's cosines", least=0.001, needs=("consistency.kind", ("contrast",)), added=True
    ),
    "consistency.decoupled": Field(
        False, "contrast leaves an image's other view out of the sum over all others",
        needs=("consistency.kind", ("contrast",)), added=True,
    ),
    "diffusion.one_in": Field(
        1, "one in so many images of a batch is denoised, and the code learned from all; it divides the batch",
        least=1, added=True,
    ),
    "diffusion.process": Field(
        "vp", "vp, sub_vp, ve, cosine or rectified_flow; vp with 1000 steps is DDPM's linear chain",
        choices=tuple(PROCESSES),
    ),
    "diffusion.steps": Field(1000, "T, the length of the chain; 0: continuous time", least=0),
    "diffusion.prediction": Field("eps", "eps, x0, v, flow (eps - x0) or score", choices=PREDICTIONS),
    "diffusion.self_condition": Field(
        False, "the middle block's mean token conditions the blocks after it, as in DDAE++", added=True
    ),
    "diffusion.denoiser_rate": Field(1.0, "its learning rate over that of all else", least=0.0, added=True),
    "diffusion.weight": Field(
        "simple", "simple, sigma2, min_snr, or MODULE:FUNCTION, a lambda(t, alpha, sigma) on the score"
    ),
    "diffusion.min_snr_gamma": Field(
        5.0, "where min_snr clips the signal-to-noise ratio", least=1e-6, needs=("diffusion.weight", ("min_snr",))
    ),
    "diffusion.timesteps": Field(
        "stratified", "stratified, uniform, fixed, sigma, logit_normal or adversarial", choices=LAWS
    ),
    "diffusion.fixed_t": Field(
        0.8, "the one noise level of the fixed law", least=0.001, most=1.0, needs=("diffusion.timesteps", ("fixed",))
    ),
    "diffusion.logit_mean": Field(
        0.0, "of logit(t) under the logit_normal law", least=-10.0, most=10.0,
        needs=("diffusion.timesteps", ("logit_normal",)),
    ),
    "diffusion.logit_std": Field(
        1.0, "its standard deviation", least=0.001, most=10.0, needs=("diffusion.timesteps", ("logit_normal",))
    ),
    "diffusion.adversary_temperature": Field(
        1.0, "of the adversarial law: high, and all levels are drawn alike", least=0.001,
        needs=("diffusion.timesteps", ("adversarial",)),
    ),
}  # fmt: skip


def make_process(config: ConfigDict) -> Process:
    """The config's process: a chain of `diffusion.steps`, or in continuous time where that is 0."""
    process = PROCESSES[config.diffusion.process]()
    return process.chain(config.diffusion.steps) if config.diffusion.steps else process


def make_objective(config: ConfigDict) -> Objective:
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
        consistency=config.consistency.kind,
        consistency_weight=config.consistency.weight,
        temperature=config.consistency.temperature,
        decoupled=config.consistency.decoupled,
        one_in=diffusion.one_in,
        kl_weight=embedding.kl_weight,
        l1_weight=embedding.l1_weight,
        penalty_unit=embedding.penalty_unit,
        mixup=embedding.mixup,
        drop=embedding.drop,
    )


def make_weight(name: str) -> str | Lambda:
    """A weight of the objective's own, or the function that MODULE:FUNCTION names, imported when it is first called: a
    run's config may be a stranger's, and readers of a run need no weight.

    Raises:
      UserError: it is neither.
    """
    if name in WEIGHTS:
        return name
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise UserError(f"config.diffusion.weight={name!r}; {KNOWN_WEIGHTS}")
    return lambda t, alpha, sigma: import_weight(name)(t, alpha, sigma)


def import_weight(name: str) -> Lambda:
    """The function that MODULE:FUNCTION names.

    Raises:
      UserError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        weight = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"config.diffusion.weight={name!r}: {error}; {KNOWN_WEIGHTS}") from error
    if not callable(weight):
        raise UserError(f"config.diffusion.weight={name!r} is no function; {KNOWN_WEIGHTS}")
    return weight


def check_named_code(config: ConfigDict) -> None:
    """Tries a weight that the config names on three noise levels.

    Raises:
      UserError: there is none of this name, or its function does not give a finite number for each.
    """
    name = config.diffusion.weight
    if name in WEIGHTS:
        return
    weight = import_weight(name)
    alpha, sigma = PROCESSES["vp"]().marginal(levels := jnp.array([0.1, 0.5, 0.9]))
    try:
        values = jnp.asarray(weight(levels, alpha, sigma))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.diffusion.weight={name!r} does not take (t, alpha, sigma): {error}") from error
    if values.shape != (3,) or not bool(jnp.all(jnp.isfinite(values))):
        raise UserError(
            f"config.diffusion.weight={name!r} gives {values} for three noise levels; expected three numbers"
        )


def check(config: ConfigDict) -> None:
    """Refuses switches that contradict one another, and losses without bound."""
    _check_code(config)
    diffusion = config.diffusion
    if diffusion.steps == 1:
        raise UserError("config.diffusion.steps=1; expected 0, which is continuous time, or a chain of 2 or more")
    make_weight(diffusion.weight)
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
    rows, parts = config.train.batch_size, config.train.accumulate
    if diffusion.one_in > 1 and (rows % (diffusion.one_in * parts) or not config.consistency.weight):
        raise UserError(
            f"config.diffusion.one_in={diffusion.one_in}: expected a divisor of the {rows // parts} images of a step's "
            "part, and a consistency.weight, as without one nothing is learned from the other images; set it to 1"
        )
    last = make_process(config).last
    if diffusion.timesteps == "fixed" and diffusion.fixed_t > last:
        raise UserError(
            f"config.diffusion.fixed_t={diffusion.fixed_t}: there is next to nothing left of the image at that t under "
            f"config.diffusion.process={diffusion.process}; use at most {last:g}"
        )
    if diffusion.self_condition and config.model.scan:
        raise UserError(
            "config.diffusion.self_condition=True changes what later blocks are told, and config.model.scan=True tells "
            "all the same; set config.model.scan=False"
        )
    if (seen := config.embedding.input) in ("view", "clean_view") and config.data.augment == "none":
        raise UserError(
            f"config.embedding.input={seen!r} needs views; set config.data.augment to flip, crop or crop+flip"
        )


def _check_code(config: ConfigDict) -> None:
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
                    f"set config.embedding.input to x0, xt, view or clean_view, or config.{name} to {type(value)(0)}"
                )
    if embedding.drop and not embedding.sphere:
        raise UserError(
            f"config.embedding.drop={embedding.drop} withholds codes by telling 0, which off the unit sphere is a code "
            "like any other; set config.embedding.sphere=True, or config.embedding.drop=0"
        )
    check_sphere(config)
    if embedding.gaussian and embedding.l1_weight > 0:
        raise UserError(
            f"config.embedding.l1_weight={embedding.l1_weight} is of a deterministic code, a Gaussian one has "
            "config.embedding.kl_weight; set one of config.embedding.l1_weight=0 and config.embedding.gaussian=False"
        )
    chain = config.consistency.kind == "chain"
    if not chain and not config.consistency.weight:
        raise UserError(
            f"config.consistency.kind={config.consistency.kind} has no effect with config.consistency.weight=0; set it "
            "to chain, or give it a weight"
        )
    if config.consistency.weight > 0 and not chain:
        check_whole_batch(config)
        if config.data.augment == "none":
            raise UserError(
                f"config.consistency.kind={config.consistency.kind} compares two views of an image, and "
                "config.data.augment=none draws none; set config.data.augment to crop, or another"
            )
    if config.consistency.weight > 0 and chain and not sees_noise(config) and not embedding.timed:
        raise UserError(
            f"config.consistency.weight={config.consistency.weight} compares the codes of two noise levels, and a "
            f"static code of {embedding.input} has one for all; set it to 0, or config.embedding.timed=True"
        )


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """The denoiser, the consistency term's predictor and the adversary, where the config has them."""
    sizes, code, shape = parts.sizes, parts.code, parts.image_shape
    scale = code_scale(code.dim, code.sphere) if code else 1.0
    how = dict(code_scale=scale, self_condition=config.diffusion.self_condition)
    denoiser, dim = Denoiser(depth=sizes.depth, **how, **sizes.trunk()), code and code.dim
    networks = {"denoiser": Network(denoiser, (shape, (), code and (dim,)), denoiser.flops(shape, dim))}
    if config.consistency.weight > 0 and code and config.consistency.kind == "contrast":
        projector = Mlp(*PROJECTION, last_norm=True)
        networks["projector"] = Network(projector, ((dim,),), projector.flops(dim))
    elif config.consistency.weight > 0 and code:
        predictor = Predictor(dim=dim, hidden=2 * dim, norm="layer" if config.consistency.kind == "chain" else "batch")
        networks["predictor"] = Network(predictor, ((dim,), ()), predictor.flops())
    if config.diffusion.timesteps == "adversarial":
        networks[ADVERSARY] = Network(Adversary(), ())
    return networks


def make_networks(models: Models, config: ConfigDict, place: Place | None = None) -> Networks:
    """The modules as functions; see `method.Method`.

    A network sees x_t scaled to about unit variance, x_t / sqrt(alpha^2 + sigma^2), which changes nothing in a
    variance-preserving process; and what it puts out is scaled by the size of what it predicts: 1 / sigma for a score
    (Song et al. 2021, arXiv 2011.13456, their code), sqrt(alpha^2 + sigma^2) for v. A static encoder is told t = 0.
    """
    process, prediction, noised = make_process(config), config.diffusion.prediction, sees_noise(config)
    modules = {name: placed(network.module, place) for name, network in models.networks.items()}
    functions = {name: apply_of(name, module) for name, module in modules.items()}

    def size(t: Level) -> Image:
        alpha, sigma = process.marginal(t)
        return expand(jnp.sqrt(alpha**2 + sigma**2))

    def denoise(params, xt, t, z):
        output, tokens = functions["denoiser"](params, xt / size(t), t, z)
        if prediction == "score":
            output = output / expand(jnp.maximum(process.marginal(t)[1], LEAST))
        if prediction == "v":
            output = output * size(t)
        return output, tokens

    def encode(params, image, t):
        image = image / size(t) if noised else image
        told = t if config.embedding.timed else jnp.zeros_like(t)
        return functions["encoder"](params, image, told)

    heads = {name: function for name, function in functions.items() if name not in ("encoder", "denoiser")}
    return Networks(denoise, encode if models.encoder else None, heads)


def sees_noise(config: ConfigDict) -> bool:
    return config.embedding.input in ("xt", "view")


def tell(config: ConfigDict, params: Params) -> Mapping[str, Array]:
    return {"logits": params[ADVERSARY]["logits"]} if ADVERSARY in params else {}


def passes(config: ConfigDict) -> dict[str, float]:
    """An encoder of averaged parameters takes no gradient; contrast has two that do."""
    denoiser = {"denoiser": 3 / config.diffusion.one_in}
    if not config.consistency.weight:
        return denoiser
    return denoiser | ({"encoder": 6, "projector": 6} if config.consistency.kind == "contrast" else {"encoder": 4})


def card(config: ConfigDict) -> str:
    if config.embedding.input == "none":
        return "a plain diffusion model without an encoder; its denoiser's blocks are read"
    return (
        "self-conditional diffusion, after [arXiv 2505.05732](https://arxiv.org/abs/2505.05732): a denoiser is "
        "told an embedding of the image that it denoises"
    )


METHOD = Method(
    name="diffusion",
    objective=make_objective,
    card=card,
    presets=PRESETS,
    fields=FIELDS,
    check=check,
    check_named_code=check_named_code,
    build=build,
    networks=make_networks,
    passes=passes,
    process=make_process,
    sees_noise=sees_noise,
    tell=tell,
    apart=lambda config: (ADVERSARY,) if config.diffusion.timesteps == "adversarial" else (),
    tags=("diffusion", "self-supervised-learning"),
)
