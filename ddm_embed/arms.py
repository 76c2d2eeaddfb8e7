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


ARMS: dict[str, Callable[[ConfigDict], None]] = {
    "ddm": ddm,
    "drl": drl,
    "vdrl": vdrl,
    "drl-static": drl_static,
    "ddae": ddae,
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
