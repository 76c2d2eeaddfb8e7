"""What a study would do, and for how long: by runs that were timed, or else by preflight's figures."""

import shlex
from pathlib import Path

import jax
from tqdm import tqdm

from ddm_embed import methods
from ddm_embed.errors import UserError
from ddm_embed.preflight.compiled import Machine, estimate, here
from ddm_embed.study.plan import Run, Shapes, check_images, flops_of_step, image_shape
from ddm_embed.study.work import devices_of_a_run, places, read_seconds, time_left
from ddm_embed.train.metrics import peak_flops

# On a machine without a data sheet, as on two CPU cores:
START = 15.0  # seconds until a run's first step, most of them to compile it
MFU = (0.15, 0.5)  # the least and the most of the peak that training reached, of narrow models and of wide ones


def text(runs: list[Run], workdir: Path) -> str:
    """All that a study would do, in lines."""
    platform, number = jax.default_backend(), jax.local_device_count()
    mine = devices_of_a_run(runs, platform, number)
    at_once = len(places(runs, platform, number))
    check_images(runs, platform, mine)
    seconds, all_of_it = read_seconds(workdir), here()
    machine = Machine(all_of_it.name, all_of_it.devices[:mine], all_of_it.chip)
    peak = machine.chip.flops if machine.chip else peak_flops(machine.devices[0])[0]
    left, shapes = [run for run in runs if not run.is_done()], {}
    timed = [run for run in runs if run not in left]
    lines = [f"{len(runs)} runs in {workdir}, {at_once} at once on {all_of_it.name}; {len(timed)} are done"]
    low, high, unknown = 0.0, 0.0, False
    for arm in dict.fromkeys(run.arm for run in left):
        own = [run for run in left if run.arm == arm]
        known = time_left([run for run in timed if run.arm == arm], own, seconds)
        times = _training(own, machine, shapes, peak) if known is None else (known, known)
        low, high, unknown = low + times[0], high + times[1], unknown or known is None
        by = "" if known is None else ", as runs of it took"
        lines += [f"\n{arm}: {own[0].steps:,} steps of {own[0].config.train.batch_size}, {_span(*times)}{by}"]
        lines += [f"  seed {run.seed}: {_todo(run)}" for run in own]
        lines += [f"  {_typed(own[0], 'train')}"]
    if left and not left[0].config.probe.after_training:
        lines += [f"\neach is probed by\n  {_typed(left[0], 'probe')}"]
    more = "; probing comes on top, and is known once a run of each arm is done" if unknown else ""
    return "\n".join([*lines, f"\nin all: {_span(low / at_once, high / at_once)}{more}"])


def _todo(run: Run) -> str:
    step = run.step()
    if "train" not in run.stages():
        return "probe"
    return "train and probe" if step is None else f"train on from step {step}, and probe"


def _typed(run: Run, stage: str) -> str:
    return f"python -m {shlex.join(run.command(stage))}"


def _span(low: float, high: float) -> str:
    low, high = map(tqdm.format_interval, (low, high))
    return low if low == high else f"{low} to {high}"


def _training(runs: list[Run], machine: Machine, shapes: Shapes, peak: float) -> tuple[float, float]:
    """Seconds that training takes of an arm's runs, at least and at most: by the roofline of the compiled step; where
    the chip has no data sheet, by the step's operations at a part of the rate that a product of matrices reached."""
    steps = [run.steps - (run.step() or 0) for run in runs if "train" in run.stages()]
    config = runs[0].config
    if not steps or not methods.of(config).trains:
        return 0.0, 0.0
    if machine.chip is None:
        flops, start = flops_of_step(config, shapes), START
        each = tuple(flops / (peak * share) for share in reversed(MFU))
    else:
        one = estimate(config, image_shape(config, shapes), machine)
        if one.roofline is None:
            raise UserError(
                f"config.arms, {runs[0].arm}: a step does not fit on {machine.name}; use a smaller batch or model"
            )
        start, each = one.compile_seconds, (one.roofline.at_least, one.roofline.at_most)
    return tuple(len(steps) * start + sum(steps) * seconds for seconds in each)
