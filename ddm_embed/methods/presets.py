"""The methods that are compared, each a few lines over a config: `--config configs/digits.py:arm=vdrl`.

Every arm keeps the config's data, sizes, optimizer and length, so that arms of one config are trained under one budget.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from ddm_embed.errors import UserError


def ddm(c: ConfigDict) -> None:
    """Self-conditional diffusion learning: Jiang & Cai, arXiv 2505.05732.

    L = E |target - f(x_t, t, z_t)|^2,  z_t = E(x_0, t) / |E(x_0, t)|, on DDPM's chain of 1,000 steps. The velocity is
    predicted rather than the noise, which did better on held-out training digits. Expect the most from z and the
    encoder at middle t.
    """
    c.diffusion.process, c.diffusion.steps = "vp", 1000
    c.diffusion.prediction, c.diffusion.weight, c.diffusion.timesteps = "v", "simple", "stratified"
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", True, True


def drl(c: ConfigDict) -> None:
    """Diffusion-based representation learning: Mittal et al., arXiv 2105.14257, with the code a function of t.

    L = E lambda(t) |s(x_t, t, E(x_0, t)) - grad log p_0t(x_t | x_0)|^2 + 1e-5 |z|_1,  lambda = sigma^2, on the
    continuous VP process with t ~ U(1e-5, 1). Expect it close to `ddm`: it differs by the sphere, the weight and the
    L1 norm.
    """
    c.diffusion.process, c.diffusion.steps = "vp", 0
    c.diffusion.prediction, c.diffusion.weight, c.diffusion.timesteps = "score", "sigma2", "uniform"
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", False, True
    c.embedding.l1_weight = 1e-5


def vdrl(c: ConfigDict) -> None:
    """Variational DRL: Mittal et al., arXiv 2105.14257.

    `drl` with z drawn from the Gaussian E(Z | x_0, t), and 1e-5 KL(E(Z | x_0, t) || N(0, I)) in place of the L1 norm.
    Expect a smoother space of codes than `drl`'s and somewhat less in it.
    """
    drl(c)
    c.embedding.l1_weight = 0.0
    c.embedding.gaussian, c.embedding.kl_weight = True, 1e-5


def drl_static(c: ConfigDict) -> None:
    """DRL with one code for all noise levels: Mittal et al., arXiv 2105.14257, sec. 3.

    `drl` with E(x_0), which is not told t. Expect a flat profile of z over t: the trade-off between coarse and fine is
    made once, by lambda(t) and the law of t.
    """
    drl(c)
    c.embedding.timed = False


def ddae(c: ConfigDict) -> None:
    """Denoising diffusion autoencoder: Xiang et al. 2023, arXiv 2303.09769: a plain DDPM, probed by its blocks.

    L = E |eps - f(x_t, t)|^2 on DDPM's chain of 1,000 steps (Ho et al. 2020, arXiv 2006.11239), with no encoder.
    Expect the best features in a middle block at low noise.
    """
    c.diffusion.process, c.diffusion.steps = "vp", 1000
    c.diffusion.prediction, c.diffusion.weight, c.diffusion.timesteps = "eps", "simple", "stratified"
    c.embedding.input = "none"


def ae(c: ConfigDict) -> None:
    """Autoencoder: L = E |x0 - f(E(x0))|^2, where f is the denoiser's network with nothing of the image in its input.

    Expect a z that keeps most of the image, little better than the pixels to read classes from.
    """
    _static(c, "autoencoder")


def vae(c: ConfigDict) -> None:
    """Variational autoencoder: Kingma & Welling 2014, arXiv 1312.6114.

    L = E |x0 - f(z)|^2 + (2 beta / pixels) KL(E(Z | x0) || N(0, I)), z drawn from E(Z | x0), |.|^2 a mean over pixels:
    with beta = embedding.kl_weight = 1 the evidence lower bound of a decoder of unit variance on images in [-1, 1].
    Expect a z of which few entries are in use, and less in it than in `ae`'s.
    """
    _static(c, "vae")
    c.embedding.gaussian, c.embedding.kl_weight = True, 1.0


def simclr(c: ConfigDict) -> None:
    """SimCLR: Chen et al. 2020, arXiv 2002.05709, eq. 1.

    L = E -log exp(cos(p, p') / tau) / sum exp(cos(p, p_k) / tau), p and p' of two views of an image, p_k of all other
    views in the batch, p = MLP(E(x0)), tau = 0.5 as in their runs on CIFAR-10. It lives by its views: where the config
    draws none, they are `crop`s here. Expect much of data.augment=simclr on photographs, little of weak views.
    """
    _static(c, "simclr")
    _see_views(c)


def byol(c: ConfigDict) -> None:
    """BYOL: Grill et al. 2020, arXiv 2006.07733, eq. 2.

    L = E [2 - 2 cos(q(p(E(x))), p'(E'(x')))] + the same with the views x and x' exchanged; E' and p' have the moving
    average of the parameters. Views as `simclr`'s. Expect about what `simclr` has, from smaller batches too.
    """
    _static(c, "byol")
    _see_views(c)


def mae(c: ConfigDict) -> None:
    """Masked autoencoder: He et al. 2022, arXiv 2111.06377.

    L = E |x_m - f(E(x_v))|^2 over the masked patches m, 75 % of all, normalised each; the encoder sees the visible
    ones. z is no part of it and is not probed. Expect features that a linear head reads worse than a nonlinear one or
    fine-tuning does, and little from images of few patches.
    """
    _static(c, "mae")


def supervised(c: ConfigDict) -> None:
    """A classifier: L = E -log softmax(W E(x0) + b)_y. The one arm that reads the training images' labels.

    Expect more than of any other: a bound on what the encoder can hold, no rival.
    """
    _static(c, "supervised")


def random(c: ConfigDict) -> None:
    """No training: there is no L = ..., the encoder is probed as it is initialised, saved as step 0.

    A transformer's blocks begin as the identity (adaLN-Zero), so that all its layers are one linear map of the patches,
    averaged. Expect less than of the pixels.
    """
    _static(c, "none")


def _static(c: ConfigDict, objective: str) -> None:
    """A baseline's encoder sees the image and no noise level; its code is free."""
    c.objective.name = objective
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", False, False


def _see_views(c: ConfigDict) -> None:
    if c.data.augment == "none":
        c.data.augment = "crop"


ARMS: dict[str, Callable[[ConfigDict], None]] = {
    "ddm": ddm,
    "drl": drl,
    "vdrl": vdrl,
    "drl-static": drl_static,
    "ddae": ddae,
    "ae": ae,
    "vae": vae,
    "simclr": simclr,
    "byol": byol,
    "mae": mae,
    "supervised": supervised,
    "random": random,
}


def apply(arm: str, c: ConfigDict) -> None:
    """Makes the config the arm's; any but `ddm` is added to its name, so that runs/NAME are different directories.

    Raises:
      UserError: there is no such arm.
    """
    if arm not in ARMS:
        raise UserError(f"config argument 'arm={arm}'; use one of {', '.join(ARMS)}")
    ARMS[arm](c)
    if arm != "ddm":
        c.name = f"{c.name}_{arm.replace('-', '_')}"
