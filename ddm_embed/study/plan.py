"""A study's config -> its runs: of each the commands that make it, and what is there of it."""

import dataclasses
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli, methods
from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.errors import UserError
from ddm_embed.methods.build import make_models
from ddm_embed.probe import protocols as protocols_lib
from ddm_embed.runs.checkpoint import checkpoint_steps
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.provenance import fingerprint
from ddm_embed.train.metrics import train_flops
from ddm_embed.validate import validate, validate_against, validate_probe

CLASSES = 1000  # of a classifier, whose number is next to nothing of a step
PROBES = "config.probe_overrides"
Shapes = dict[str, tuple[int, int, int]]  # of images, by the config of their data


@dataclasses.dataclass(frozen=True)
class Probe:
    """How each run is probed: the program's arguments, and the config that they give."""

    arguments: tuple[str, ...]
    config: ConfigDict


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      arm: the row of the table that it is of. seed: of its training. path: its directory.
      arguments: of the training program, but for the directory. config: what they give.
    """

    arm: str
    seed: int
    path: Path
    arguments: tuple[str, ...]
    config: ConfigDict
    probe: Probe

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def steps(self) -> int:
        """Of its training; 0 of a method that trains nothing."""
        return self.config.train.steps if methods.of(self.config).trains else 0

    def command(self, stage: str) -> list[str]:
        """What a user would type after `python -m`. stage: train or probe."""
        module, arguments = {
            "train": ("ddm_embed.main", self.arguments),
            "probe": ("ddm_embed.probe", self.probe.arguments),
        }[stage]
        return [module, *arguments, "--workdir", str(self.path)]

    def step(self) -> int | None:
        """Of its newest checkpoint; None without any."""
        return max(checkpoint_steps(self.path), default=None)

    def stages(self) -> list[str]:
        """What is to be done yet: train, probe."""
        step = self.step()
        if step is None or step < self.steps:
            return ["train", "probe"]
        return [] if self._is_probed() else ["probe"]

    def is_done(self) -> bool:
        return not self.stages()

    def _is_probed(self) -> bool:
        """Whether there are results of this very probe, on the last checkpoint."""
        directory, probe = RunDirectory(self.path), self.probe.config
        folder = directory.probe(probe.name)
        if not folder.is_done():
            return False
        try:
            results = folder.read_results("probe again")
        except UserError:  # they are written anew
            return False
        wanted = fingerprint(directory.read_config()), fingerprint(probe), probe.seed, self.steps
        manifest = results.get("manifest", {})
        found = (manifest.get(name) for name in ("config_hash", "probe_hash"))
        return (*found, results.get("seeds", {}).get("probe"), results.get("checkpoint_step")) == wanted


def make(config: ConfigDict, workdir: Path) -> list[Run]:
    """The runs of a study, all arms of one seed before the next.

    Raises:
      UserError: the config, an arm's, or the probe's is wrong, or a run directory is of another config.
    """
    if config.equal not in ("steps", "flops"):
        raise UserError(f"config.equal={config.equal!r}; use one of steps, flops")
    seeds = config.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"config.seeds={seeds}: expected different integers from 0, one a run")
    probe = _probe(config)
    arms = _arms(config, probe)
    runs = [
        Run(
            arm, seed, workdir / f"{arm}_{seed}", (*arguments, f"--config.train.seed={seed}"), _seeded(one, seed), probe
        )
        for seed in seeds
        for arm, (arguments, one) in arms.items()
    ]
    for run in runs:
        if run.step() is not None:
            RunDirectory(run.path).check_config(run.config)
    return runs


def _seeded(config: ConfigDict, seed: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.train.seed = seed
    return config


def _probe(config: ConfigDict) -> Probe:
    arguments, _ = _flags(PROBES, config.probe_overrides)
    given = ("--config", config.probe_config, *arguments)
    probe = _parsed(PROBES, given, config_lib.probe_default)
    protocols = config_lib.names(config.protocols)
    if protocols != config_lib.names(probe.protocols):
        given = (*given, f"--config.protocols={','.join(protocols)}")
        probe = _parsed(PROBES, given, config_lib.probe_default)
    validate_probe(probe)
    protocols_lib.check(probe)
    return Probe(given, probe)


def _arms(config: ConfigDict, probe: Probe) -> dict[str, tuple[tuple[str, ...], ConfigDict]]:
    """(arguments, config) of each arm, by the name of its row."""
    shared, base = _flags("config.overrides", config.overrides)
    probed = config_lib.flatten(probe.config) == config_lib.flatten(config_lib.probe_default())
    arms, lasting = {}, set()
    for text in _arm_texts(config.arms):
        name, _, changes = (part.strip() for part in text.partition(":"))
        if not re.fullmatch(r"\w[\w.+-]*", name) or name in arms:
            raise UserError(f"config.arms: {name!r} is no name of a row, or one twice; use letters, digits and _.+-")
        where = f"config.arms, {name}"
        own, own_keys = _flags(where, changes)
        keys = {"arm": name} | base | own_keys
        file, _, given = config.base.partition(":")
        listed = [*filter(None, [given]), *(f"{key}={value}" for key, value in keys.items())]
        first = ("--config", f"{file}:{','.join(listed)}", f"--config.name={name}")
        arguments = (*first, *shared, *own, f"--config.probe.after_training={probed}")
        arms[name] = arguments, _checked(where, arguments)
        if "steps" in own_keys or any(flag.startswith("--config.train.steps=") for flag in own):
            lasting.add(name)
    if not arms:
        raise UserError("config.arms is empty; name an arm, such as ddm")
    if config.equal == "flops":
        arms = _with_equal_flops(arms, lasting)
    same: dict[str, str] = {}
    for name, (_, one) in arms.items():
        if (other := same.setdefault(fingerprint(one), name)) != name:
            raise UserError(f"config.arms: {other} and {name} are of one config; change one, or leave it out")
    return arms


def _with_equal_flops(arms: dict, lasting: set[str]) -> dict:
    """The arms with as many steps as take the operations of the first that trains. lasting: those that keep theirs."""
    shapes: Shapes = {}
    step = {name: flops_of_step(one, shapes) for name, (_, one) in arms.items() if methods.of(one).trains}
    if not step:
        return arms
    first = next(iter(step))
    budget = step[first] * arms[first][1].train.steps
    for name in step.keys() - lasting - {first}:
        arguments = (*arms[name][0], f"--config.train.steps={max(1, round(budget / step[name]))}")
        arms[name] = arguments, _checked(f"config.arms, {name}", arguments)
    return arms


def flops_of_step(config: ConfigDict, shapes: Shapes) -> float:
    """Operations of a training step on the whole batch, in the networks' matrix products."""
    models = make_models(config, image_shape(config, shapes), "cpu", CLASSES)
    return train_flops(models.forward_flops(), methods.of(config).passes(config)) * config.train.batch_size


def image_shape(config: ConfigDict, shapes: Shapes) -> tuple[int, int, int]:
    """(height, width, channel) of a config's images; `shapes` keeps those of data that was opened."""
    data = str(config_lib.flatten(config.data))
    if data not in shapes:
        shapes[data] = open_source(config).image_shape
    return shapes[data]


def _arm_texts(given: Iterable[str]) -> list[str]:
    """The arms of a tuple, in which a flag puts several names as one text."""
    return [part for text in given for part in ([text] if ":" in text else config_lib.names((text,)))]


def _flags(where: str, text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """KEY=VALUE ... as flags of fields, and as arguments of the config file, whose names have no dot."""
    fields, arguments = [], {}
    for entry in shlex.split(text):
        key, equals, value = entry.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UserError(f"{where}: {entry!r}: expected KEY=VALUE, such as train.batch_size=128")
        if "." in key or where == PROBES:  # whose fields have no dot
            fields.append(f"--config.{key}={value}")
        else:
            arguments[key] = value
    return tuple(fields), arguments


def _checked(where: str, arguments: tuple[str, ...]) -> ConfigDict:
    config = _parsed(where, arguments, config_lib.default)
    try:
        validate(config)
        methods.of(config).check_named_code(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def _parsed(where: str, arguments: tuple[str, ...], default) -> ConfigDict:
    """The config that a program makes of its arguments."""
    try:
        return cli.parse(list(arguments), cli.new_flags(), default, config_required=True)
    except (UserError, flags.Error) as error:
        raise UserError(f"{where}: {error}") from error


def check_images(runs: list[Run], platform: str, devices: int) -> None:
    """Checks each arm against its images and the devices that it will have.

    Raises:
      UserError: the images are not there, or do not suit an arm.
    """
    shapes: Shapes = {}
    for run in {run.arm: run for run in runs}.values():
        shape = image_shape(run.config, shapes)
        try:
            validate_against(run.config, shape, devices, platform)
        except UserError as error:
            raise UserError(f"config.arms, {run.arm}: {error}") from error
