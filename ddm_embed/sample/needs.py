"""What a picture may need of a run; each function says why the run does not have it, and the mend, or gives None."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.methods.system import DIFFUSION, make_process


def obstacle(needs: tuple[str, ...], run: ConfigDict, config: ConfigDict) -> str | None:
    """The first of the needs, names in `NEEDS`, that the run does not meet, and the mend; None if it meets all. Every
    picture needs a denoiser.

    Args:
      run: the run's config. config: the picture's.
    """
    return next(filter(None, (NEEDS[need](run, config) for need in ("denoiser", *needs))), None)


def denoiser(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.objective.name != DIFFUSION:
        return (
            f"is made with a diffusion model's denoiser, and this run's objective is {run.objective.name}; train one "
            "with --config.objective.name=diffusion, or another arm="
        )
    return None


def code(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.input == "none":
        return "needs a code, and this run has no encoder; train one with --config.embedding.input=x0"
    return None


def solver(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.diffusion.timesteps == "fixed":
        return (
            "needs a solver, which needs the score at every t, and this run was trained at "
            f"t={run.diffusion.fixed_t:g} alone; train one with --config.diffusion.timesteps=stratified"
        )
    return None


def ode(run: ConfigDict, config: ConfigDict) -> str | None:
    if config.sampler not in sampler_lib.ODE_SAMPLERS:
        choices = ", ".join(sampler_lib.ODE_SAMPLERS)
        return f"runs an ODE both ways, and {config.sampler} adds noise; use a --config.sampler of {choices}"
    return None


def no_code(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.input != "none" and run.embedding.drop == 0:
        return (
            "draws images without a code, and this run's denoiser was told one in every step; "
            "train one with --config.embedding.drop=0.1, or see --picture=one_z"
        )
    return None


def plane(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.dim != 2:
        return (
            f"needs a code of 2 entries, and this run's has {run.embedding.dim}; "
            "train one with --config.embedding.dim=2"
        )
    return None


def flat(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.sphere:
        return (
            "decodes a square of codes, and this run's lie on a circle; train one with --config.embedding.sphere=False"
        )
    return None


def signal(run: ConfigDict, config: ConfigDict) -> str | None:
    last = make_process(run).last
    if max(config.times) > last:
        return (
            f"guesses the image from x_t, which at t={max(config.times):g} holds next to nothing of it under "
            f"{run.diffusion.process}; use --config.times of at most {last:g}"
        )
    return None


NEEDS: dict[str, Callable[[ConfigDict, ConfigDict], str | None]] = {
    "denoiser": denoiser,
    "code": code,
    "solver": solver,
    "ode": ode,
    "no_code": no_code,
    "plane": plane,
    "flat": flat,
    "signal": signal,
}
