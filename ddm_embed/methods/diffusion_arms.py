"""The arms of self-conditional diffusion: each a few switches of `diffusion.py`'s loss, with its source."""

from ml_collections import ConfigDict

from ddm_embed.methods.views import draw_views


def ddm(c: ConfigDict) -> None:
    """Self-conditional diffusion learning: Jiang & Cai, arXiv 2505.05732.

    L = E |target - f(x_t, t, z_t)|^2,  z_t = E(x_0, t) / |E(x_0, t)|, on DDPM's chain of 1,000 steps. The velocity is
    predicted rather than the noise, which did better on held-out training digits. Expect the most from z and the
    encoder at middle t.
    """
    c.diffusion.process, c.diffusion.steps = "vp", 1000
    c.diffusion.prediction, c.diffusion.weight, c.diffusion.timesteps = "v", "simple", "stratified"
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", True, True


def ddm_contrast(c: ConfigDict) -> None:
    """`ddm`, whose codes of two views at two noise levels are contrasted with those of other images; our own.

    L = E |target - f(x_t, t, z_t)|^2 + 3 NT-Xent(p(z_t), p(z'_s)),  s < t, z' of another view, p an MLP with batch
    norm, NT-Xent SimCLR's loss (arXiv 2002.05709, eq. 1), decoupled (arXiv 2110.06848), at a temperature of 0.2. One
    image in four is denoised, so that a step costs little more than SimCLR's. It lives by its views: where the config
    draws none, they are `crop`s here. Expect much more than of `ddm` on photographs from a short training.
    """
    ddm(c)
    c.consistency.weight, c.consistency.kind = 3.0, "contrast"
    c.consistency.temperature, c.consistency.decoupled, c.diffusion.one_in = 0.2, True, 4
    draw_views(c)


def drl(c: ConfigDict) -> None:
    """Diffusion-based representation learning: Mittal et al., arXiv 2105.14257, with the code a function of t.

    L = E lambda(t) / 2 |s(x_t, t, E(x_0, t)) - grad log p_0t(x_t | x_0)|^2 + 1e-5 |z|_1,  lambda = sigma^2, |.|^2 a
    sum over pixels as in their code, on the continuous VP process with t ~ U(1e-5, 1). Expect it close to `ddm`: it
    differs by the sphere, the weight and the L1 norm.
    """
    c.diffusion.process, c.diffusion.steps = "vp", 0
    c.diffusion.prediction, c.diffusion.weight, c.diffusion.timesteps = "score", "sigma2", "uniform"
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", False, True
    c.embedding.l1_weight, c.embedding.penalty_unit = 1e-5, "sum"


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


def ddae_pp(c: ConfigDict) -> None:
    """DDAE++: Xiang et al. 2025, arXiv 2505.10999: `ddae`, whose middle block conditions the blocks after it.

    L = E |eps - f(x_t, t)|^2, where the mean token of the middle block, normalised and through one linear map, is added
    to what the later blocks are told of t. Their contrastive self-distillation is left out. They report more in the
    middle block than `ddae` has there.
    """
    ddae(c)
    c.diffusion.self_condition = True


def soda(c: ConfigDict) -> None:
    """SODA: Hudson et al. 2023, arXiv 2311.17901: the encoder sees another view, clean, and is not told t.

    L = E |target - f(x_t, t, E(x') / |E(x')|)|^2 on DDPM's chain of 1,000 steps, x' another view of x. z is withheld
    for one image in ten, and the encoder learns at twice the denoiser's rate. Here the velocity is predicted as in
    `ddm`: where it was the noise, z collapsed within 300 steps on the digits. z is on the sphere, so that 0 says that
    there is none, and enters every block whole, where theirs has a part for each layer. It lives by its views: where
    the config draws none, they are `crop`s here. Expect little from weak views, small images and short runs: on the
    digits its z told classes no better than an untrained encoder's.
    """
    ddm(c)
    c.embedding.input, c.embedding.timed, c.embedding.drop = "clean_view", False, 0.1
    c.diffusion.denoiser_rate = 0.5
    draw_views(c)


PRESETS = {f.__name__.replace("_", "-"): f for f in (ddm, ddm_contrast, drl, vdrl, drl_static, ddae, ddae_pp, soda)}
