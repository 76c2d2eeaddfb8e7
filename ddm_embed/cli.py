"""What the programs share: flags, logging, the other processes, and one line and a non-zero exit for what the user can
mend."""

import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.parallel import cluster, distributed
from ddm_embed.runs import files

WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; runs/NAME of the config where one is made.")

# sysexits' EX_TEMPFAIL: saved after SIGTERM or SIGINT, or another process was lost; the same command again goes on.
STOPPED = 75


def launch(
    body: Callable[[ConfigDict], int], default: ConfigDict, config_required: bool, processes: bool = False
) -> None:
    """Parses `--config` and the other flags, runs the body with the config and exits with the code it returns.

    Args:
      body: the program.
      default: the config that files start from; a `--config.FIELD` that it lacks is refused.
      config_required: whether the program needs `--config`, or goes by the default without it.
      processes: whether it runs as several processes where there are several.
    """

    def program() -> int:
        if processes:
            _define_process_flags()
        config = _parse(sys.argv, default, config_required)
        _set_up_logging()
        _set_up_compilation_cache()
        if processes:
            _join_processes()
        return body(config)

    _run(program)


def launch_on_arguments(body: Callable[[list[str]], int]) -> None:
    """Parses the flags, runs the body, which takes no config, with what is no flag, and exits with its code."""

    def program() -> int:
        app.define_help_flags()
        arguments = flags.FLAGS(sys.argv)[1:]
        _set_up_logging()
        _set_up_compilation_cache()
        return body(arguments)

    _run(program)


def check_flags(arguments: list[str], needed: tuple[flags.FlagHolder, ...], example: str) -> None:
    """Checks what a program without a config was given.

    Args:
      arguments: what is no flag. needed: flags that must have a value. example: of such flags, for the message.

    Raises:
      UserError: there are arguments, or a flag has no value.
    """
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}; flags begin with --")
    for flag in needed:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; as in {example}")


def _run(program: Callable[[], int]) -> None:
    """Runs it and exits with its code, or with that of what it raised."""
    faulthandler.enable()  # JAX aborts a process that has lost the others: say where it was
    try:
        code = program()
    # An OSError says which file, and why: disk full, no permission.
    except (UserError, flags.Error, OSError, *files.store_errors()) as error:
        _exit_if_lost(error)
        print(f"{_who()}error: {error}", file=sys.stderr)
        code = 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            _exit_if_lost(error)
            _exit_if_others_wait()
            raise
        reason = str(error).splitlines()[0]
        print(
            f"error: the device is out of memory ({reason}); lower config.train.batch_size (the probe's "
            "config.batch_size, embed's --batch_size), split the model with config.mesh.fsdp, or choose a smaller "
            "config.model.variant",
            file=sys.stderr,
        )
        code = 1
    except Exception as error:
        _exit_if_others_wait()
        if not _in_backends(error):
            raise
        reason = f"{error}".splitlines()[:1] or ["no such device, or not the library that drives it"]
        print(
            f"error: JAX has no device to run on (JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason[0]}); "
            "install the extra that brings it, pip install -e '.[cuda]' or '.[tpu]', or unset JAX_PLATFORMS",
            file=sys.stderr,
        )
        code = 1
    _exit(code)


def _in_backends(error: Exception) -> bool:
    """Whether it came of JAX's search for devices, which of an unknown platform is an AssertionError without a word."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, (RuntimeError, AssertionError)) and frame.f_code.co_filename.endswith("xla_bridge.py")


def _define_process_flags() -> None:
    flags.DEFINE_enum("cluster", "auto", cluster.CLUSTERS, "How the processes of a run find one another.")
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, to start by flags alone.")
    flags.DEFINE_integer("num_processes", None, "How many processes the run has; another number is an error.", 1)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", 0)
    flags.DEFINE_integer("connect_seconds", 300, "How long the processes wait for one another to start.", 1)
    flags.DEFINE_integer("watchdog_seconds", 600, "Without progress for so long, one of several processes ends.", 1)


def _join_processes() -> None:
    f = flags.FLAGS
    how = cluster.find(
        f.cluster, f.coordinator_address, f.num_processes, f.process_id, os.environ, cluster.has_tpu()
    )  # fmt: skip
    distributed.start(how, f.num_processes, f.connect_seconds, heartbeat=min(100, f.watchdog_seconds))
    if jax.process_count() > 1:
        distributed.watch(f.watchdog_seconds, STOPPED)
        logger = logging.getLogger("ddm_embed")
        if not distributed.is_lead():
            logger.setLevel(logging.WARNING)
            logger.handlers[0].setFormatter(logging.Formatter(f"%(asctime)s {_who()}%(message)s", "%H:%M:%S"))
        logger.info("process 0 of %d; the others tell only what goes wrong", jax.process_count())


def _who() -> str:
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    return f"[process {jax.process_index()}] " if several else ""


def _exit_if_lost(error: Exception) -> None:
    """Ends with `STOPPED` if an error of JAX says that another process has gone."""
    if jax.distributed.is_initialized() and distributed.lost_another(error):
        traceback.print_exc()
        print(f"{_who()}another process was lost; run the same command again to go on", file=sys.stderr)
        _exit(STOPPED, wait=False)


def _exit_if_others_wait() -> None:
    """Ends one of several processes upon an error: at its exit JAX waits for the others, who wait for its work."""
    if jax.distributed.is_initialized():
        traceback.print_exc()
        _exit(1)


def _exit(code: int, wait: bool = True) -> None:
    """Exits; one of several processes that has failed, or must not wait, does so without the others' leave."""
    if jax.distributed.is_initialized() and (not wait or code not in (0, STOPPED)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parse(argv: list[str], default: ConfigDict, config_required: bool) -> ConfigDict:
    app.define_help_flags()
    names = [part.lstrip("-") for part in argv[1:] if part.startswith("-")]
    for name in names:
        if name.startswith("config."):
            config_lib.check_field(name.partition("=")[0].removeprefix("config."), default)
    if any(name.partition("=")[0] == "config" for name in names):
        argv = _with_config_file(argv)
        holder = config_flags.DEFINE_config_file("config", None, "Config file, as in configs/digits.py:key=value.")
    elif config_required:
        flags.DEFINE_string("config", None, "Config file, as in configs/digits.py:key=value; --config.FIELD=VALUE.")
        holder = None
    else:
        holder = config_flags.DEFINE_config_dict("config", default, "Config; --config.FIELD=VALUE.")
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags begin with --")
    if holder is None:
        raise UserError("--config is missing; give a config file, such as --config configs/digits.py")
    if config_lib.flatten(holder.value).keys() != config_lib.flatten(default).keys():
        raise UserError("--config is of another program: its fields are not this one's")
    return holder.value


def _with_config_file(argv: list[str]) -> list[str]:
    """The arguments with the path of the file that `--config` names in its place."""
    argv = list(argv)
    for place, part in enumerate(argv):
        name, equals, value = part.partition("=")
        if name in ("-config", "--config"):
            if equals:
                argv[place] = f"{name}={config_lib.find_file(value)}"
            else:
                argv[place + 1 : place + 2] = [config_lib.find_file("".join(argv[place + 1 : place + 2]))]
    return argv


def _set_up_logging() -> None:
    # What libraries say through absl is nothing a user of these programs can mend, or is raised as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
    _quieten_failed_saves()
    logger = logging.getLogger("ddm_embed")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _quieten_failed_saves() -> None:
    """A save that fails is one error, raised in the main thread; asyncio and TensorStore's threads print hundreds."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)):
            show(unraisable)

    sys.unraisablehook = show_others


def _set_up_compilation_cache() -> None:
    """Compiled programs are kept between runs, so that a resumed run starts at once; the variable overrides where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ddm_embed" / "jax"))
