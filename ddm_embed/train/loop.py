"""The order of training: open, restore, step, report, save."""

import dataclasses
import itertools
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ddm_embed import config as config_lib
from ddm_embed import methods
from ddm_embed.data import pipeline
from ddm_embed.data.pipeline import Batch
from ddm_embed.data.sources import open_source
from ddm_embed.data.splits import read_labels
from ddm_embed.data.types import Images, Source
from ddm_embed.methods.build import make_models, make_networks, make_objective
from ddm_embed.models.build import Models
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import BATCH_AXES, by_example, device_memory, make_mesh
from ddm_embed.reproducible import reproducible
from ddm_embed.runs.checkpoint import Checkpoints
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.train.metrics import StepMetrics, train_flops
from ddm_embed.train.optimizer import make_optimizer, make_schedule
from ddm_embed.train.progress import CODES, IMAGES, Progress, check_finite, make_denoise, make_encode
from ddm_embed.train.state import TrainState, abstract_state, create, make_init, shardings_of
from ddm_embed.train.step import make_train_step
from ddm_embed.validate import check_memory, mesh_shape, validate, validate_against

logger = logging.getLogger("ddm_embed")

IN_FLIGHT = 2  # steps handed to the devices ahead of the one they work on


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended: the last step, whether that is the end of the run, and whether it was so before."""

    step: int
    finished: bool
    nothing_to_do: bool = False


@reproducible()
def train(config: ConfigDict, workdir: Path) -> Outcome:
    """Trains until `config.train.steps`, resuming whatever `workdir` holds; SIGTERM and SIGINT save and return.

    Raises:
      UserError: the config, the data, the directory or its checkpoints are at fault, or the loss is not finite.
    """
    with distributed.together():
        validate(config)
        methods.of(config).check_named_code(config)
        data = open_source(config)
        validate_against(config, data.image_shape, jax.device_count(), jax.default_backend())
        memory = device_memory(jax.local_devices()[0])
        check_memory(config, data.image_shape, jax.device_count(), jax.default_backend(), memory)
    directory = RunDirectory(workdir)
    with directory.locked():
        distributed.from_lead(lambda: directory.prepare(config))
        distributed.from_lead(lambda: directory.check_data(data))
        with distributed.together():  # each process against what the first one has
            directory.check_shared()
            directory.check_config(config)
            directory.check_data(data)
        return train_in(config, workdir, data)


def train_in(config: ConfigDict, workdir: Path, data: Source) -> Outcome:
    """Trains in a directory that is this run's own."""
    mesh = make_mesh(*mesh_shape(config, jax.device_count()))
    logger.info(
        "%s: %d training images of %s, on %d %s", data.name, len(data.train), data.image_shape, mesh.size,
        jax.devices()[0].device_kind,
    )  # fmt: skip

    method, labels = methods.of(config), None
    if method.reads_labels:
        with distributed.together():
            labels = read_labels(data, method.name)
        distributed.from_lead(lambda: RunDirectory(workdir).note_classes(labels.values))
        number = len(data.train)
        logger.warning("config.objective.name=%s reads the labels of %d training images", method.name, number)
    models = make_models(config, data.image_shape, classes=labels and len(labels.values))
    optimizer = make_optimizer(config)
    init = make_init(models, optimizer, config.train.seed, method.initialise)
    abstract = abstract_state(init, optimizer, mesh)

    # From here on: a signal that comes while XLA compiles is heard when it has done so.
    notes = RunDirectory(workdir).notes()
    with stop_on_signal() as stop, Checkpoints(workdir, config.train.keep_checkpoints, notes) as checkpoints:
        distributed.progress()
        state = checkpoints.restore(abstract)
        if state is None:
            distributed.from_lead(lambda: list_parameters(abstract.params, workdir))
            state = create(init, abstract)
        elif not method.trains:
            return Outcome(0, finished=True, nothing_to_do=True)
        distributed.progress()
        if not method.trains:
            checkpoints.save(0, state, config_lib.to_json(config))
            logger.info("config.objective.name=%s trains nothing: the initialisation is saved as step 0", method.name)
            return Outcome(0, finished=True)
        start = int(state.step)
        if start >= config.train.steps:
            return Outcome(start, finished=True, nothing_to_do=True)
        if start:
            logger.info("resuming at step %d of %d", start, config.train.steps)

        train_step = compile_step(config, models, optimizer, mesh, abstract, data.train.images.dtype)
        with closing(open_batches(config, data.train.images, mesh, start, labels and labels.index)) as batches:
            with distributed.together():
                first = next(batches)  # reads the data and fails here if it cannot
            distributed.progress()
            with closing(open_progress(config, workdir, start, models, data.train.images, mesh)) as progress:
                return run(config, train_step, state, itertools.chain([first], batches), checkpoints, progress, stop)


def list_parameters(params: Any, workdir: Path) -> None:
    """Writes every parameter's name and shape, and logs how many there are."""
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    path = RunDirectory(workdir).write_parameters(overview)
    logger.info("%s parameters, listed in %s", f"{parameter_overview.count_parameters(params):,}", path)


def run(
    config: ConfigDict,
    train_step: Callable,
    state: TrainState,
    batches: Iterator[Batch],
    checkpoints: Checkpoints,
    progress: Progress,
    stop: threading.Event,
) -> Outcome:
    """Steps from the state's step to the end, or until it is asked to stop; then it still takes one step."""
    c = config.train
    start, config_json = int(state.step), config_lib.to_json(config)
    merge = jax.jit(StepMetrics.merge)
    total, in_flight = None, deque()
    quiet = None if distributed.is_lead() else True  # None: shown on a terminal
    bar = tqdm(total=c.steps, initial=start, disable=quiet, unit="step", desc=config.name, dynamic_ncols=True)
    with bar, logging_redirect_tqdm([logger]):
        for done in range(start + 1, c.steps + 1):
            with jax.transfer_guard("disallow"):  # a step moves nothing between host and devices unasked
                state, metrics = train_step(state, next(batches))
                total = metrics if total is None else merge(total, metrics)
            in_flight.append(metrics.loss.total)
            if len(in_flight) > IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            bar.update()
            distributed.progress()

            stopping = distributed.stop_asked(done) or stop.is_set()
            ending = stopping or done == c.steps
            log_due, save_due = ending or done % c.log_every == 0, ending or done % c.checkpoint_every == 0
            if log_due or save_due:
                check_finite(total, checkpoints)  # before a save: nothing that a bad step has touched is kept
            if log_due:
                progress.look(state.ema_params)
                progress.log(done, total)
                total = None
            if c.picture_every and (done % c.picture_every == 0 or done == c.steps):
                progress.picture(done, state.ema_params)
            if save_due:
                checkpoints.save(done, state, config_json)
            checkpoints.check()
            if stopping:
                logger.info("asked to stop: saving step %d", done)
                break
    return Outcome(done, finished=done == c.steps)


def compile_step(
    config: ConfigDict, models: Models, optimizer, mesh: Mesh, abstract: TrainState, dtype: np.dtype = np.uint8
) -> Callable:
    """The training step, compiled before the loop for exactly these shapes: others are an error, not a recompile.

    `dtype` is that of the images as they are stored: float32 of sequences.
    """
    method, objective = methods.of(config), make_objective(config)
    networks = make_networks(models, config, by_example(mesh))
    step = make_train_step(config, method, objective, networks, optimizer, mesh, shardings_of(abstract))
    size, split = config.train.batch_size, NamedSharding(mesh, P(BATCH_AXES))
    batch = {"image": jax.ShapeDtypeStruct((size, *models.image_shape), dtype, sharding=split)}
    if method.reads_labels:
        batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=split)
    begin = time.perf_counter()
    with distributed.unhurried():
        compiled = step.lower(abstract, batch).compile()
    logger.info("compiled the training step in %.0f s", time.perf_counter() - begin)
    return compiled


def open_batches(
    config: ConfigDict, images: Images, mesh: Mesh, start: int, labels: Int[np.ndarray, " number"] | None = None
) -> Iterator[Batch]:
    """The run's batches from step `start` on; with labels only where they are given."""
    order = pipeline.Order(images.shape[0], config.train.batch_size, config.train.seed)
    alone = jax.process_count() == 1  # one of several reads its own share and no more
    resident = alone and pipeline.fits(images, config.data.resident_gib, mesh)
    logger.info("training images are %s", "kept on the devices" if resident else "streamed")
    return pipeline.batches(images, order, mesh, start, resident, config.data.threads, labels)


def open_progress(
    config: ConfigDict, workdir: Path, start: int, models: Models, images: Images, mesh: Mesh
) -> Progress:
    """The run's reporter; its pictures show the first training images."""
    shown = images[np.arange(min(CODES, images.shape[0]))]
    networks, denoise = make_networks(models, config), None
    if models.denoiser is not None:
        objective = make_objective(config)
        denoise = make_denoise(objective, networks, not methods.of(config).sees_noise(config), mesh)
    return Progress(
        config,
        workdir,
        start,
        schedule=make_schedule(config),
        flops_per_image=train_flops(models.forward_flops(), methods.of(config).passes(config)),
        denoise=denoise,
        encode=None if networks.encode is None else make_encode(networks, shown, mesh),
        images=jax.device_put(shown[:IMAGES], NamedSharding(mesh, P())),
    )


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first SIGTERM, SIGINT or SIGHUP sets; a second one acts as it would have without us.

    Several processes agree on a step to stop after (`distributed.stop_asked`): there JAX handles SIGTERM.
    """
    stop = threading.Event()
    previous = {}
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield stop
        return
    if jax.process_count() > 1:
        numbers, previous[signal.SIGTERM] = (signal.SIGINT, signal.SIGHUP), signal.SIG_DFL

        def handle(number, _frame) -> None:
            signal.raise_signal(signal.SIGTERM)
    else:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

        def handle(number, _frame) -> None:
            stop.set()
            signal.signal(number, previous[number])

    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has SIGHUP
            previous[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
