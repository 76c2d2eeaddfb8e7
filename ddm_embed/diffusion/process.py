"""Forward processes: how an image turns into noise.

`x_t = alpha(t) x_0 + sigma(t) eps`, with eps standard normal and t in [0, 1] from clean to noise; equally the solution
of `dx = a(t) x dt + g(t) dw` from x_0. Each process exists in continuous time, a frozen dataclass, and as a Markov
chain of T steps, `process.chain(T)`. Every method takes NumPy arrays (float64, on the host) as well as JAX arrays.

VP, sub-VP and VE: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations" (arXiv
2011.13456), sec. 3.4 and app. B; the constants are those of Mittal et al., arXiv 2105.14257, released code.
"""

import abc
import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, Float, Key

Time = Float[Array, " batch"]
Table = Float[np.ndarray, " time"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process(abc.ABC):
    """What every forward process offers; log-SNR falls and sigma grows strictly with t.

    Attributes:
      first: the least t that is trained and sampled (1e-5 in Mittal et al.'s code); t = 0 is the clean image.
      last: the t from which sampling starts: 1, or a little less where no signal at all is left at 1.
      steps: T of a chain; 0 in continuous time.
    """

    first: float = 1e-5
    last: float = 1.0
    steps: int = 0

    @abc.abstractmethod
    def marginal(self, t: Time) -> tuple[Time, Time]:
        """alpha [batch] and sigma [batch] of x_t given x_0."""

    @abc.abstractmethod
    def rates(self, t: Time) -> tuple[Time, Time]:
        """a(t) [batch] and g(t)^2 [batch] of `dx = a x dt + g dw`: a = (log alpha)', g^2 = (sigma^2)' - 2 a sigma^2."""

    @abc.abstractmethod
    def table(self, steps: int) -> tuple[Table, Table]:
        """alpha and sigma, float64 [steps + 1], at the steps of this process's chain, beginning with the clean
        image."""

    def log_snr(self, t: Time) -> Time:
        """log(alpha^2 / sigma^2), [batch]."""
        alpha, sigma = self.marginal(t)
        xp = t.__array_namespace__()
        return 2 * (xp.log(alpha) - xp.log(sigma))

    def prior(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Draws of what sampling starts from at t = `last`: normal with standard deviation sigma(last)."""
        return float(self.marginal(np.array([self.last]))[1][0]) * jax.random.normal(key, shape)

    def chain(self, steps: int) -> "Chain":
        """The Markov chain of so many steps: step i in 0..T-1 stands at t = (i+1)/T."""
        return Chain(*self.table(steps))

    def at(self, u: Time) -> Time:
        """u in [0, 1) -> t: [first, 1) in continuous time; floor(uT) + 1 over T in a chain, each step equally often."""
        if not self.steps:
            return self.first + (1 - self.first) * u
        xp = u.__array_namespace__()
        return (xp.clip(xp.floor(u * self.steps), 0, self.steps - 1) + 1) / self.steps

    def before(self, t: Time, u: Time) -> Time:
        """A level strictly before t, the clean image included, uniform for uniform u in [0, 1)."""
        if not self.steps:
            return t * u
        xp = t.__array_namespace__()
        index = xp.round(t * self.steps)
        return xp.minimum(xp.floor(u * index), index - 1) / self.steps

    def time_at_sigma(self, sigma: Time) -> Time:
        """The t in [0, last] whose sigma this is, [batch]; by bisection to the precision of the array's type."""
        return self._bisect(lambda t: self.marginal(t)[1] < sigma, sigma)

    def time_at_log_snr(self, log_snr: Time) -> Time:
        """The t in [0, last] whose log-SNR this is, [batch]."""
        return self._bisect(lambda t: self.log_snr(t) > log_snr, log_snr)

    def _bisect(self, too_early, like: Time) -> Time:
        xp = like.__array_namespace__()
        low, high = 0 * like, self.last + 0 * like
        for _ in range(60 if like.dtype == np.float64 else 30):
            middle = (low + high) / 2
            early = too_early(middle)
            low, high = xp.where(early, middle, low), xp.where(early, high, middle)
        return (low + high) / 2

    def _sampled(self, steps: int) -> tuple[Table, Table]:
        """This process's own marginals at the steps; if none has signal at 1, the last stands for `last` or half a step
        before 1, whichever is later: no two steps are the same."""
        end = max(self.last, 1 - 0.5 / steps)
        alpha, sigma = self.marginal(np.minimum(np.arange(1, steps + 1) / steps, end))
        return np.concatenate([[1.0], alpha]), np.concatenate([[0.0], sigma])


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP(Process):
    """Variance preserving: beta(t) rises linearly; alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B the integral of beta.

    Its chain is that of Ho et al. 2020 (arXiv 2006.11239): for T = 1000, betas linear from 1e-4 to 0.02.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def integral(self, t: Time) -> Time:
        """B(t), [batch]."""
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def beta(self, t: Time) -> Time:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def marginal(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        b = self.integral(t)
        return xp.exp(-b / 2), xp.sqrt(-xp.expm1(-b))

    def rates(self, t: Time) -> tuple[Time, Time]:
        return -self.beta(t) / 2, self.beta(t)

    def table(self, steps: int) -> tuple[Table, Table]:
        """Betas beta(t)/T (Nichol & Dhariwal 2021, arXiv 2102.09672, their code, for T other than 1000)."""
        return _from_betas(np.linspace(self.beta_min / steps, min(self.beta_max / steps, 0.999), steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubVP(Process):
    """VP's drift with less noise: sigma = 1 - exp(-B) (Song et al. 2021, eq. 29 and 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def marginal(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        b = VP(beta_min=self.beta_min, beta_max=self.beta_max).integral(t)
        return xp.exp(-b / 2), -xp.expm1(-b)

    def rates(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        vp = VP(beta_min=self.beta_min, beta_max=self.beta_max)
        return -vp.beta(t) / 2, -vp.beta(t) * xp.expm1(-2 * vp.integral(t))

    def table(self, steps: int) -> tuple[Table, Table]:
        return self._sampled(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VE(Process):
    """Variance exploding: s(t) = s_min (s_max / s_min)^t; alpha = 1, sigma^2 = s(t)^2 - s(0)^2 (Song et al. 2021, eq.
    29).

    Their code writes s(t) for sigma; here sigma(0) = 0, so that x_0 is the clean image, as the SDE has it.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def marginal(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        growth = 2 * math.log(self.sigma_max / self.sigma_min)
        return xp.ones_like(t), self.sigma_min * xp.sqrt(xp.expm1(growth * t))

    def rates(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        growth = 2 * math.log(self.sigma_max / self.sigma_min)
        return xp.zeros_like(t), self.sigma_min**2 * growth * xp.exp(growth * t)

    def table(self, steps: int) -> tuple[Table, Table]:
        return self._sampled(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Process):
    """alpha^2 = cos^2 of (t + s) / (1 + s) * pi / 2, over its value at t = 0 (Nichol & Dhariwal 2021, eq. 17); a VP
    process.

    Sampling starts at t = 0.9946, where alpha is 0.0085: at t = 1 it is 0 (the bound of Lu et al. 2022, arXiv
    2206.00927, their code).
    """

    last: float = 0.9946
    offset: float = 0.008

    def marginal(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        scale = math.pi / 2 / (1 + self.offset)
        begin, turned = self.offset * scale, t * scale
        alpha = xp.maximum(xp.cos(begin + turned), 0.0) / math.cos(begin)
        # 1 - alpha^2 as a product: the difference has no digits left near t = 0.
        return alpha, xp.sqrt(xp.sin(turned) * xp.sin(turned + 2 * begin)) / math.cos(begin)

    def rates(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        scale = math.pi / 2 / (1 + self.offset)
        a = -scale * xp.tan((t + self.offset) * scale)
        return a, -2 * a

    def table(self, steps: int) -> tuple[Table, Table]:
        """Betas clipped at 0.999, as Nichol & Dhariwal 2021 do."""
        angle = (np.arange(steps + 1, dtype=np.float64) / steps + self.offset) / (1 + self.offset) * np.pi / 2
        alpha_bar = np.cos(angle) ** 2
        return _from_betas(np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0.0, 0.999))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow(Process):
    """alpha = 1 - t, sigma = t: straight lines (Liu et al. 2023, arXiv 2209.03003; Lipman et al. 2023, arXiv
    2210.02747).

    Sampling starts at t = 0.995: at t = 1 there is no signal and the SDE's rates are infinite.
    """

    last: float = 0.995

    def marginal(self, t: Time) -> tuple[Time, Time]:
        return 1 - t, t

    def rates(self, t: Time) -> tuple[Time, Time]:
        return -1 / (1 - t), 2 * t / (1 - t)

    def table(self, steps: int) -> tuple[Table, Table]:
        return self._sampled(steps)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Chain(Process):
    """A Markov chain of T Gaussian steps, step i in 0..T-1 at t = (i+1)/T.

    Between the steps it is the SDE whose a and g are constant there, and whose marginals at the steps are the chain's.

    Attributes:
      alpha, sigma: float64 [T + 1], at t = 0, 1/T, ... 1.
    """

    alpha: Table
    sigma: Table

    def __init__(self, alpha: Table, sigma: Table):
        steps = len(alpha) - 1
        for name, value in dict(first=1 / steps, last=1.0, steps=steps, alpha=alpha, sigma=sigma).items():
            object.__setattr__(self, name, value)

    def marginal(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        index, since = self._place(t)
        a, g2 = (xp.asarray(rate)[index] for rate in self._rates())
        u = 2 * a * since
        alpha = xp.asarray(self.alpha)[index] * xp.exp(u / 2)
        # The integral of exp(2 a s) from 0 to `since`, whose limit for a = 0 is `since`.
        grown = since * xp.where(abs(u) > 1e-6, xp.expm1(u) / xp.where(u == 0, 1.0, u), 1 + u / 2)
        return alpha, xp.sqrt(xp.exp(u) * xp.asarray(self.sigma)[index] ** 2 + g2 * grown)

    def rates(self, t: Time) -> tuple[Time, Time]:
        xp = t.__array_namespace__()
        index, _ = self._place(t)
        a, g2 = (xp.asarray(rate)[xp.minimum(index, self.steps - 1)] for rate in self._rates())
        return a, g2

    def table(self, steps: int) -> tuple[Table, Table]:
        return self._sampled(steps)

    def _place(self, t: Time) -> tuple[Array, Time]:
        """The step at or before t, and the time since; a t within its own rounding of a step stands on it."""
        xp = t.__array_namespace__()
        position, nearest = t * self.steps, xp.round(t * self.steps)
        rounding = 4 * self.steps * np.finfo(t.dtype).eps
        position = xp.where(abs(position - nearest) < rounding, nearest, position)
        index = xp.clip(xp.floor(position), 0, self.steps)
        return index.astype(np.int32), (position - index) / self.steps

    def _rates(self) -> tuple[Table, Table]:
        """The constant a and g^2 of each piece, float64 [T + 1]; zero behind the last step."""
        ratio = self.alpha[1:] / self.alpha[:-1]
        a = self.steps * np.log(ratio)
        variance = np.maximum(self.sigma[1:] ** 2 - ratio**2 * self.sigma[:-1] ** 2, 0.0)
        u = 2 * a / self.steps
        shrink = np.where(abs(u) > 1e-12, u / np.where(u == 0, 1.0, np.expm1(u)), 1.0)
        return np.append(a, 0.0), np.append(variance * self.steps * shrink, 0.0)


def _from_betas(betas: Table) -> tuple[Table, Table]:
    """alpha^2 is the product of 1 - beta up to each step, and alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4)."""
    alpha_bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    return np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)


PROCESSES = {"vp": VP, "sub_vp": SubVP, "ve": VE, "cosine": Cosine, "rectified_flow": RectifiedFlow}
