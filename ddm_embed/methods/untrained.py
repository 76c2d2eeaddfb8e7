"""No training: an encoder as it is initialised, the floor that every method must beat."""

from ml_collections import ConfigDict

from ddm_embed.methods.method import Method, see_x0


def random(c: ConfigDict) -> None:
    """No training: there is no L = ..., the encoder is probed as it is initialised, saved as step 0.

    A transformer's blocks begin as the identity (adaLN-Zero), so that all its layers are one linear map of the patches,
    averaged. Expect less than of the pixels.
    """
    c.objective.name = "none"
    see_x0(c)


METHOD = Method(
    name="none",
    objective=None,
    card=lambda config: "none: **parameters as they were initialised, not trained**",
    presets={"random": random},
    passes=lambda config: {"encoder": 0},
    tags=(),
)
