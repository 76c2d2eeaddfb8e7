"""What the programs share: flags, help, logging, the other processes, and one line and a non-zero exit code for what
the user can mend.

Each program has flags of its own and a `main(argv)` that returns its exit code, so that several can be called in one
process. Nothing here, nor at the top of a program, imports JAX: `--help` answers at once.
"""

import contextlib
import copy
import faulthandler
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ddm_embed import config as config_lib
from ddm_embed import reference
from ddm_embed.errors import UserError, store_errors
from ddm_embed.parallel import cluster
from ddm_embed.terminal import PlainFormatter, PlainStream, one_line

logger = logging.getLogger("ddm_embed")

# sysexits' EX_TEMPFAIL: saved after SIGTERM or SIGINT, or another process was lost; the same command again goes on.
STOPPED = 75
HELP = {"help", "helpshort", "helpfull", "h", "?"}
CONFIG_HELP = "FILE or FILE:KEY=VALUE,...; FILE is a path, such as configs/digits.py, or a name, such as digits."


def new_flags(processes: bool = False) -> flags.FlagValues:
    """The flags that every program has; with `processes` those of a program that may run as several processes, too."""
    f = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Run directory; runs/NAME of the config where one is made.", flag_values=f)
    if processes:
        string, integer = (partial(define, flag_values=f) for define in (flags.DEFINE_string, flags.DEFINE_integer))
        how = "How the processes of a run find one another."
        flags.DEFINE_enum("cluster", "auto", cluster.CLUSTERS, how, flag_values=f)
        string("coordinator_address", None, "HOST:PORT of process 0, to start by flags alone.")
        integer("num_processes", None, "How many processes the run has; another number is an error.", 1)
        integer("process_id", None, "Which of them this one is, from 0.", 0)
        integer("connect_seconds", 300, "How long the processes wait for one another to start.", 1)
        integer("watchdog_seconds", 600, "Without progress for so long, one of several processes ends.", 1)
    return f


def run(
    argv: list[str] | None,
    doc: str,
    known: flags.FlagValues,
    body: Callable[[flags.FlagValues, Any], int],
    default: Callable[[], ConfigDict] | None = None,
    config_required: bool = False,
    room: str = "",
) -> int:
    """Parses the flags and runs a program; its exit code.

    What it changes in this process, such as handlers of the log, it puts back; one of several processes that fails
    ends here, without the others' leave.

    Args:
      argv: the command line without the program's name; None: this process's own.
      doc: what `--help` begins with.
      known: the program's flags, which stay as they are: a copy is parsed.
      body: the program, of the parsed flags and the config, or of the arguments that are no flags if it has no config.
      default: makes the config that files start from; a `--config.FIELD` that it lacks is refused.
      config_required: whether the program needs `--config`, or goes by the default without it.
      room: the folder of configs/ that its configs are in, of a program whose first argument names one.
    """
    given, own_process = copy.deepcopy(known), argv is None
    if own_process:
        argv = sys.argv[1:]
        _open_closed_streams()
        faulthandler.enable()  # JAX aborts a process that has lost the others: say where it was
        _hear_lost_interrupts()
        _quieten()  # to its end: threads of a save that failed speak up after the program
        _quieten_failed_saves()
    if any(part.startswith("-") and part.lstrip("-") in HELP for part in argv):
        print(help_text(doc, given, default, config_required))
        return 0
    if "jax" in sys.modules:
        from ddm_embed.reproducible import reproducible

        in_one_arithmetic = reproducible()
    else:  # it may not be needed; where it is, it reads these
        os.environ.update(JAX_ENABLE_X64="0", JAX_DEFAULT_PRNG_IMPL="threefry2x32", JAX_THREEFRY_PARTITIONABLE="1")
        in_one_arithmetic = contextlib.nullcontext()
    with _logging() as handler:
        try:
            if room and argv and not argv[0].startswith("-"):
                argv = ["--config", *argv]
            what = parse(argv, given, default, config_required, room) if default else given(["", *argv])[1:]
            _set_up_compilation_cache()
            if "num_processes" in given:
                _join_processes(given, handler)
            with in_one_arithmetic, contextlib.redirect_stdout(PlainStream(sys.stdout)):
                code = body(given, what)
                sys.stdout.flush()  # what it kept until now may meet a broken pipe
        except KeyboardInterrupt:
            print("stopped; run the same command again to go on", file=sys.stderr)
            code = STOPPED
            if own_process:  # at its exit Python would take down what XLA's threads still compile with
                _end(code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the exit
            print(
                "error: whoever read the output has ended (broken pipe); what was written to files is whole",
                file=sys.stderr,
            )
            code = 1
        except Exception as error:
            code = _code_of(error)
        if _is_joined() and code not in (0, STOPPED):
            _end(code)
        return code


def help_text(
    doc: str, known: flags.FlagValues, default: Callable[[], ConfigDict] | None, config_required: bool
) -> str:
    """What `--help` prints: the docstring, each flag and each field of the config with its default."""
    rows = [(f"--{name}", (known[name].default_as_str or "").strip("'") or "none", known[name].help) for name in known]
    if default:
        what = CONFIG_HELP + (" Required." if config_required else "")
        rows.insert(0, ("--config", "none", what))
    text = f"{doc.strip()}\n\nFlags, with their defaults:\n\n{reference.columns(rows)}"
    if default:
        fields = [(f"--config.{name}", value, what) for name, value, what in reference.shipped(default.__name__)]
        text += f"\n\nFields of the config, with their defaults:\n\n{reference.columns(fields)}"
    return text


def check_flags(given: flags.FlagValues, arguments: list[str], needed: tuple[str, ...], example: str) -> None:
    """Checks what a program without a config was given.

    Args:
      arguments: what is no flag. needed: flags that must have a value. example: of such flags, for the message.

    Raises:
      UserError: there are arguments, or a flag has no value.
    """
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}; flags begin with --")
    for name in needed:
        if not given[name].value:
            raise UserError(f"--{name} is missing; as in {example}")


def _open_closed_streams() -> None:
    """Where the process was started with a closed stdout or stderr, what is written there goes nowhere: not into the
    next file that is opened, which would get the number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


def _code_of(error: Exception) -> int:
    """Says on stderr, in one line, what the user can mend, and gives the exit code; raises the error if it is another.

    Where another process was lost, or waits for this one, this process ends here.
    """
    if _is_joined():
        from ddm_embed.parallel import distributed

        if distributed.lost_another(error):
            traceback.print_exc()
            print(f"{_who()}another process was lost; run the same command again to go on", file=sys.stderr)
            _end(STOPPED)
    line = _mend(error)
    if line is None:
        if _is_joined():  # at its exit JAX waits for the others, who wait for its work
            traceback.print_exc()
            _end(1)
        raise error
    print(f"{_who()}error: {one_line(line)}", file=sys.stderr)
    return 1


def _mend(error: Exception) -> str | None:
    """What is wrong and how to mend it, if the user can."""
    # An OSError says which file, and why: disk full, no permission.
    if isinstance(error, (UserError, flags.Error, OSError, *store_errors())):
        return str(error)
    jax = sys.modules.get("jax")
    if jax and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"the device is out of memory ({str(error).splitlines()[0]}); lower config.train.batch_size (the probe's "
            "config.batch_size, embed's --batch_size), split the model with config.mesh.fsdp, or choose a smaller "
            "config.model.variant"
        )
    if _in_backends(error):
        reason = f"{error}".splitlines()[:1] or ["no such device, or not the library that drives it"]
        return (
            f"JAX has no device to run on (JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason[0]}); "
            "install the extra that brings it, pip install -e '.[cuda]' or '.[tpu]', or unset JAX_PLATFORMS"
        )
    return None


def _in_backends(error: Exception) -> bool:
    """Whether it came of JAX's search for devices, which of an unknown platform is an AssertionError without a word."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, (RuntimeError, AssertionError)) and frame.f_code.co_filename.endswith("xla_bridge.py")


def _is_joined() -> bool:
    """Whether this is one of several processes, or a program that asked to be."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _who() -> str:
    if not _is_joined():
        return ""
    import jax

    return f"[process {jax.process_index()}] " if jax.process_count() > 1 else ""


def _end(code: int) -> NoReturn:
    """Ends this process, one of several, without the others' leave."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join_processes(given: flags.FlagValues, handler: logging.Handler) -> None:
    import jax

    from ddm_embed.parallel import distributed

    how = cluster.find(
        given.cluster, given.coordinator_address, given.num_processes, given.process_id, os.environ, cluster.has_tpu()
    )
    distributed.start(how, given.num_processes, given.connect_seconds, heartbeat=min(100, given.watchdog_seconds))
    if jax.process_count() > 1:
        distributed.watch(given.watchdog_seconds, STOPPED)
        if not distributed.is_lead():
            logger.setLevel(logging.WARNING)
            handler.setFormatter(PlainFormatter(f"%(asctime)s {_who()}%(message)s", "%H:%M:%S"))
        logger.info("process 0 of %d; the others tell only what goes wrong", jax.process_count())


def parse(
    argv: list[str],
    given: flags.FlagValues,
    default: Callable[[], ConfigDict],
    config_required: bool = False,
    room: str = "",
) -> ConfigDict:
    """The config; the other flags' values go into `given`. The rest is as of `run`."""
    argv, file = _without_config_file(argv, room)
    if file is None and not config_required:
        config = default()
    elif file is not None:
        config = _load(file)  # before any field is looked up: it may register methods, with fields of their own
        if config_lib.flatten(config).keys() != config_lib.flatten(default()).keys():
            raise UserError(
                f"--config {file} is of another program; give one that starts from config.{default.__name__}()"
            )
    else:
        config = None
    for part in argv:
        name = part.lstrip("-").partition("=")[0]
        if part.startswith("-") and name.startswith("config."):
            config_lib.check_field(name.removeprefix("config."), default() if config is None else config)
    argv = ["", *argv]
    holder = None
    if config is not None:
        holder = config_flags.DEFINE_config_dict(
            "config", config, help_string=CONFIG_HELP, flag_values=given, sys_argv=argv
        )
    rest = given(argv)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags begin with --")
    if holder is None:
        example = f"configs/{room}/digits.py" if room else "--config configs/digits.py"
        raise UserError(f"--config is missing; give a config file, such as {example}")
    return holder.value


def _load(file: str) -> ConfigDict:
    """What the config file, PATH or PATH:ARGUMENTS, gives."""
    alone = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=alone, sys_argv=["", f"--config={file}"])
    alone(["", f"--config={file}"])
    return holder.value


def _without_config_file(argv: list[str], room: str) -> tuple[list[str], str | None]:
    """The arguments without `--config FILE`, and the path of the last FILE; None if none is named."""
    rest, file, parts = [], None, iter(argv)
    for part in parts:
        name, equals, value = part.partition("=")
        if name in ("-config", "--config"):
            file = config_lib.find_file(value if equals else next(parts, ""), room)
        else:
            rest.append(part)
    return rest, file


@contextlib.contextmanager
def _logging() -> Iterator[logging.Handler]:
    """The package's log on stderr, by the handler that is given."""
    before = logger.level, logger.propagate, absl_logging.get_verbosity()
    _quieten()
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        level, logger.propagate, verbosity = before
        logger.setLevel(level)
        absl_logging.set_verbosity(verbosity)


def _hear_lost_interrupts() -> None:
    """Sends a Ctrl-C again that came within a destructor or a garbage collector's callback, where Python drops it."""
    before = sys.unraisablehook

    def hook(lost) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def _quieten() -> None:
    """What libraries say through absl is nothing a user of these programs can mend, or is raised as well."""
    absl_logging.set_verbosity(absl_logging.FATAL)


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
        home = os.path.expanduser("~")
        if home == "~":  # of a user whom this machine knows by a number alone, as in some containers
            return
        place = str(Path(home) / ".cache" / "ddm_embed" / "jax")
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_compilation_cache_dir", place)
        else:  # JAX reads it when it is imported
            os.environ["JAX_COMPILATION_CACHE_DIR"] = place
