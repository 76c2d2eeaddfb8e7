"""A config and a set of chips -> the training step compiled for them, and what it takes of each chip."""

import dataclasses
import logging
import math
import os
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddm_embed import methods
from ddm_embed.errors import UserError
from ddm_embed.methods.build import make_models
from ddm_embed.models.patches import is_sequence
from ddm_embed.parallel import chips as chips_lib
from ddm_embed.parallel.chips import Chip
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.preflight import hlo
from ddm_embed.preflight.cost import Cost, Roofline, cost, roofline
from ddm_embed.train.loop import compile_step
from ddm_embed.train.metrics import peak_flops, train_flops
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import TrainState, abstract_state, make_init
from ddm_embed.validate import mesh_shape, validate_against

logger = logging.getLogger("ddm_embed")


CLASSES = 1000  # of a classifier, whose classes only the dataset knows: next to nothing of a step


@dataclasses.dataclass(frozen=True)
class Machine:
    """What to compile for. name: as given. devices: the chips. chip: their data sheet, or None."""

    name: str
    devices: list[jax.Device]
    chip: Chip | None

    @property
    def platform(self) -> str:
        return self.devices[0].platform

    @property
    def places(self) -> list[tuple[int, ...]]:
        """Coordinates of each chip in its torus; () of those that lie in none."""
        return [tuple(device.coords) for device in self.devices] if self.platform == "tpu" else []


@dataclasses.dataclass(frozen=True)
class State:
    """Bytes on each chip of what training keeps from step to step, exactly, by the shardings.

    Attributes:
      parameters, average, optimizer: of the networks, of their moving average, of the optimizer.
      count: parameters in all, on all chips together.
    """

    parameters: int
    average: int
    optimizer: int
    count: int

    @property
    def total(self) -> int:
        return self.parameters + self.average + self.optimizer


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One config on one machine; of a step that does not fit, `needed` is all that is known beyond the state.

    Attributes:
      machine: its name. chips: how many. mesh: (data, fsdp, tensor). batch: images a step, over all chips.
      remat, accumulate: the config's.
      memory: bytes that a program may have of a chip; None if not known.
      state: as above. batch_bytes: of the images. padding: what the chip's layouts add to both. temporaries:
      activations, gradients and other intermediates. program: its code. needed: all of it, in bytes.
      fits: whether that is within `memory`.
      model_flops: operations of the model's matrix products in a step, for one chip. cost: as compiled.
      roofline: seconds of a step; None without a data sheet. peak: the chip's operations a second.
      compile_seconds: how long it took to compile.
    """

    machine: str
    chips: int
    mesh: tuple[int, int, int]
    batch: int
    remat: str
    accumulate: int
    memory: float | None
    state: State
    needed: float
    fits: bool
    model_flops: float
    peak: float
    batch_bytes: int = 0
    padding: float = 0.0
    temporaries: float = 0.0
    program: float = 0.0
    cost: Cost | None = None
    roofline: Roofline | None = None
    compile_seconds: float = 0.0

    @property
    def images_per_second(self) -> tuple[float, float]:
        """(if nothing overlaps, if all does)."""
        return self.batch / self.roofline.at_most, self.batch / self.roofline.at_least

    @property
    def mfu(self) -> tuple[float, float]:
        """(if nothing overlaps, if all does)."""
        r = self.roofline
        return tuple(self.model_flops / (seconds * self.peak) for seconds in (r.at_most, r.at_least))


def here() -> Machine:
    """This machine's devices."""
    device = jax.devices()[0]
    sheet = chips_lib.find(device.device_kind)
    chip = sheet and sheet[1]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if chip and limit:
        chip = dataclasses.replace(chip, memory=limit)
    return Machine(f"{len(jax.devices())} {device.device_kind}", jax.devices(), chip)


def abstract(config: ConfigDict, models: Any, optimizer: Any, mesh: Mesh) -> TrainState:
    return abstract_state(make_init(models, optimizer, config.train.seed), optimizer, mesh)


def state_of(state: TrainState) -> State:
    """What each chip holds of a state of shapes and shardings."""

    def held(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
        )

    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return State(held(state.params), held(state.ema_params), held(state.opt_state), count)


def estimate(config: ConfigDict, image_shape: tuple[int, int, int], machine: Machine, compile: bool = True) -> Estimate:
    """Compiles the training step for the machine and reads off what it takes.

    Args:
      config: a run's.
      image_shape: (height, width, channel); (1, length, channel) of sequences.
      machine: the chips; they need not be there.
      compile: whether to compile; never done where the state alone does not fit.

    Raises:
      UserError: the config does not suit the images or the number of chips.
    """
    method = methods.of(config)
    if not method.trains:
        raise UserError(f"config.objective.name={method.name} trains nothing: there is no step to compile")
    devices = machine.devices
    validate_against(config, image_shape, len(devices), machine.platform)
    shape = mesh_shape(config, len(devices))
    mesh = make_mesh(*shape, devices=devices)
    models, optimizer = make_models(config, image_shape, machine.platform, CLASSES), make_optimizer(config)
    shapes = abstract(config, models, optimizer, mesh)
    state = state_of(shapes)
    per_image = train_flops(models.forward_flops(), method.passes(config))
    memory = machine.chip.memory if machine.chip else _memory_of(machine)
    known = Estimate(
        machine=machine.name,
        chips=len(devices),
        mesh=shape,
        batch=config.train.batch_size,
        remat=config.model.remat,
        accumulate=config.train.accumulate,
        memory=memory,
        state=state,
        needed=state.total,
        fits=memory is None or state.total <= memory,
        model_flops=per_image * config.train.batch_size / len(devices),
        peak=machine.chip.flops if machine.chip else peak_flops(devices[0])[0],
    )
    if not compile or not known.fits:
        return known

    begin = time.perf_counter()
    try:
        program = compile_step(config, models, optimizer, mesh, shapes, stored_as(image_shape))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = needed_bytes(str(error), state.total) or state.total
        seconds = time.perf_counter() - begin
        return dataclasses.replace(known, needed=needed, fits=False, compile_seconds=seconds)
    seconds = time.perf_counter() - begin
    return _read(known, machine, program, image_shape, seconds)


def stored_as(image_shape: tuple[int, int, int]) -> np.dtype:
    """The type that images of this shape come to the devices in."""
    return np.dtype(np.float32 if is_sequence(image_shape) else np.uint8)


def _read(known: Estimate, machine: Machine, program: Any, image_shape: tuple[int, int, int], seconds: float):
    memory = program.memory_analysis()
    taken = cost(hlo.parse(program.as_text()), known.chips)
    data, fsdp, _ = known.mesh
    batch_bytes = known.batch // (data * fsdp) * math.prod(image_shape) * stored_as(image_shape).itemsize
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes + new
    times = machine.chip and roofline(machine.chip, taken.flops, taken.bytes, taken.collectives, machine.places)
    return dataclasses.replace(
        known,
        needed=needed,
        fits=known.memory is None or needed <= known.memory,
        batch_bytes=batch_bytes,
        padding=memory.argument_size_in_bytes - known.state.total - batch_bytes,
        temporaries=memory.temp_size_in_bytes + new,
        program=memory.generated_code_size_in_bytes,
        cost=taken,
        roofline=times,
        compile_seconds=seconds,
    )


def needed_bytes(message: str, state: float) -> float | None:
    """What a program would need of a chip, from the TPU compiler's refusal; None if it does not say.

    Args:
      message: it tells of everything, or of temporaries alone.
      state: bytes of what is kept from step to step.
    """
    everything = re.search(r"Used ([\d.]+)([KMGT]) of", message)
    temporaries = re.search(r"temporaries \(([\d.]+)([KMGT])\)", message)
    match = everything or temporaries
    if match is None:
        return None
    size = float(match.group(1)) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[match.group(2)]
    return size if everything else size + state


def _memory_of(machine: Machine) -> float | None:
    """A CPU's devices share the machine's memory."""
    if machine.platform != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(machine.devices)
