"""What the programs share: flags, logging, and one line and a non-zero exit for what the user can mend."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; runs/NAME of the config where one is made.")

STOPPED = 75  # sysexits' EX_TEMPFAIL: saved after SIGTERM or SIGINT; run the same command again to go on


def launch(body: Callable[[ConfigDict], int], default: ConfigDict, config_required: bool) -> None:
    """Parses `--config` and the other flags, runs the body with the config and exits with the code it returns.

    Args:
      body: the program.
      default: the config that files start from; a `--config.FIELD` that it lacks is refused.
      config_required: whether the program needs `--config`, or goes by the default without it.
    """
    try:
        config = _parse(sys.argv, default, config_required)
        _set_up_logging()
        _set_up_compilation_cache()
        code = body(config)
    except (UserError, flags.Error, OSError) as error:  # an OSError says which file, and why: disk full, no permission
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        print(
            f"error: the device is out of memory ({reason}); lower config.train.batch_size (or the probe's "
            "config.batch_size), split the model with config.mesh.fsdp, or choose a smaller config.model.variant",
            file=sys.stderr,
        )
        code = 1
    sys.exit(code)


def _parse(argv: list[str], default: ConfigDict, config_required: bool) -> ConfigDict:
    app.define_help_flags()
    names = [part.lstrip("-") for part in argv[1:] if part.startswith("-")]
    for name in names:
        if name.startswith("config."):
            config_lib.check_field(name.partition("=")[0].removeprefix("config."), default)
    if any(name.partition("=")[0] == "config" for name in names):
        _check_config_file(argv)
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


def _check_config_file(argv: list[str]) -> None:
    for place, part in enumerate(argv):
        name, equals, value = part.lstrip("-").partition("=")
        if part.startswith("-") and name == "config":
            value = value if equals else (argv[place + 1] if place + 1 < len(argv) else "")
            file = value.partition(":")[0]
            if not Path(file).is_file():
                raise UserError(f"--config {file}: no such file")


def _set_up_logging() -> None:
    # What libraries warn of through absl is nothing a user of these programs can mend.
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger = logging.getLogger("ddm_embed")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _set_up_compilation_cache() -> None:
    """Compiled programs are kept between runs, so that a resumed run starts at once; the variable overrides where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ddm_embed" / "jax"))
