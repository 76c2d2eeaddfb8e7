"""The pictures of a run, by name, after the figures of Mittal et al., arXiv 2105.14257, and their released code."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ml_collections import ConfigDict

from ddm_embed.features.run import Run
from ddm_embed.sample import decoded, measured
from ddm_embed.sample.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A picture: what it shows, in a line; what it needs of a run, of `needs.NEEDS`; how it is drawn."""

    what: str
    needs: tuple[str, ...]
    draw: Callable[[Run, Shown, ConfigDict], "Figure"]


PICTURES = {
    "reconstructions": Picture(
        "images decoded from noise and their z, at several t", ("code", "solver"), decoded.reconstructions
    ),
    "one_z": Picture("many samples from one z", ("code", "solver"), decoded.one_z),
    "interpolation": Picture("from the z of one image to that of another", ("code", "solver"), decoded.interpolation),
    "wrong_z": Picture("each image denoised in one step with each other's z", ("code", "signal"), measured.wrong_z),
    "code_scatter": Picture("codes of 2 entries, coloured by class", ("code", "plane"), measured.code_scatter),
    "code_grid": Picture(
        "a square of codes of 2 entries, decoded", ("code", "plane", "flat", "solver"), decoded.code_grid
    ),
    "trajectory": Picture("x_t and the guess of x_0 on the way from noise to image", ("solver",), decoded.trajectory),
    "loss": Picture("denoising error over t, told the right z, a wrong one or none", (), measured.loss),
    "detail": Picture("what z keeps, class and pixels, beside other runs of the same data", ("code",), measured.detail),
    "samples": Picture("samples without a z", ("no_code", "solver"), decoded.samples),
    "inversion": Picture("images carried to noise by the ODE and back", ("ode", "solver"), decoded.inversion),
}
