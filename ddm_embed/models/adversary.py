"""The adversary that chooses noise levels: logits over equal slices of t, and nothing else."""

from flax import linen as nn
from jaxtyping import Array, Float


class Adversary(nn.Module):
    """Logits [bins] of a law of t; all alike at initialisation.

    After the ICLR 2022 version of Mittal et al., arXiv 2105.14257, where an adversary raises the loss through the law
    of t.
    """

    bins: int = 20

    @nn.compact
    def __call__(self) -> Float[Array, " bins"]:
        return self.param("logits", nn.initializers.zeros, (self.bins,))
