"""Tiny configs, a compilation cache shared with subprocesses, and one trained run for whoever needs it."""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# Before JAX is imported: subprocesses inherit both.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import numpy as np
import pytest

from ddm_embed import config as config_lib

ROOT = Path(__file__).parents[1]
# Compiles in a third of the time, which is most of what tiny models take; what runs is slower.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 11):  # later ones end at once on a flag that they no longer have
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=4"
FAST_TO_RUN = {  # what undoes that, for a jitted function that runs for longer than it compiles
    "xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False,
} | ({"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in QUICK_TO_COMPILE else {})  # fmt: skip
gc.set_threshold(50_000, 20, 20)  # tracing makes much that lives for long: seldom looked through, it is faster
# For programs whose result is tested; a worker inherits what is set below.
AS_USERS_DO = os.environ.get("XLA_FLAGS", "").replace(QUICK_TO_COMPILE, "").strip()
os.environ["XLA_FLAGS"] = f"{AS_USERS_DO} {QUICK_TO_COMPILE}".strip()  # before JAX's first use; subprocesses inherit it
# A shell's background jobs ignore Ctrl-C, as nohup's do SIGHUP, and so would each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def tiny_config(**changes):
    """A run of seconds on the digits: width 16, one encoder and two denoiser layers, 20 steps."""
    c = config_lib.default()
    c.name = "tiny"
    c.model.variant = "Ti/4"
    c.model.width = 16
    c.model.heads = 2
    c.model.depth = 2
    c.model.encoder_depth = 1
    c.embedding.dim = 8
    c.optimizer.warmup_steps = 5
    c.optimizer.ema_decay = 0.9
    c.train.steps = 20
    c.train.batch_size = 16
    c.train.log_every = 5
    c.train.checkpoint_every = 10
    c.train.picture_every = 0
    c.probe.after_training = False
    c.update_from_flattened_dict(changes)
    return c


def tiny_models(image_shape, method="diffusion", classes=None, **changes):
    """The networks of a tiny config under a method, for images (height, width, channel)."""
    from ddm_embed.methods.build import make_models

    if method != "diffusion":
        changes = {"embedding.timed": False, "embedding.sphere": False, "embedding.gaussian": method == "vae"} | changes
    return make_models(tiny_config(**{"objective.name": method} | changes), image_shape, classes=classes)


def flags_of(config):
    """The command-line flags that turn configs/digits.py into this config."""
    base = config_lib.flatten(config_lib.default())
    digits = ["--config", str(ROOT / "configs" / "digits.py")]
    values = config_lib.flatten(config)
    return digits + [f"--config.{name}={value}" for name, value in values.items() if value is not None and name in base]


def run_module(module, *arguments, timeout=240, **environment):
    """Runs `python -m module` as a user would; its completed process, output as text."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=os.environ | environment,
    )


def run_program(module, *arguments):
    """Calls `module.main` in this process; what `run_module` would return. What it does not say in a line is raised."""
    program = importlib.import_module(module)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = program.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess([module, *arguments], code, out.getvalue(), err.getvalue())


def refused(process):
    """The one line with which a program refused to go on."""
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    assert lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


def saved_arrays(workdir, step):
    """Every array of a checkpoint, read without this package's own code."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        trees = [
            checkpointer.restore(workdir.absolute() / "checkpoints" / str(step) / item) for item in ("train", "ema")
        ]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def run_on_eight(script, *arguments):
    """Runs a script of the tests on eight forced CPU devices, whose number is fixed when JAX starts; the JSON of its
    last line."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    process = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"XLA_FLAGS": flags},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def resident():
    """Bytes of memory that this process holds, after giving back what it has freed."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Compiled programs are let go of after a module once this worker has grown large."""
    yield
    if sys.platform == "linux" and resident() > 1.5 * 2**30:
        jax.clear_caches()
        gc.collect()
        resident()


def made_once(tmp_path_factory, name, make):
    """The directory `name`, the same for all workers, which the first that asks fills by `make(directory)`; do not
    write into it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            make(folder)
            made.touch()
    return folder


def on_eight_once(tmp_path_factory, script, *arguments):
    """What `run_on_eight` gives, run by whichever worker asks first."""

    def make(folder):
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(run_on_eight(script, *arguments)))

    name = re.sub(r"\W", "_", " ".join([script.stem, *arguments]))
    return json.loads((made_once(tmp_path_factory, name, make) / "report.json").read_text())


def run_once(tmp_path_factory, name, config):
    """(config, workdir) of a finished run of this config, trained by whichever worker asks first."""
    from ddm_embed.train.loop import train

    def make(workdir):
        assert train(config, workdir).finished

    return config, made_once(tmp_path_factory, name, make)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """(config, workdir) of a finished run; do not write into it."""
    return run_once(tmp_path_factory, "tiny", tiny_config(**{"train.picture_every": 20}))


@pytest.fixture(scope="session")
def tfds_dir():
    """The directory of prepared TFDS datasets; the test is skipped where there is none."""
    beside = ROOT.parent.glob("*/data/tfds")
    for place in [os.environ.get("TFDS_DATA_DIR", ""), "~/tensorflow_datasets", *beside]:
        if place and list(Path(place).expanduser().glob("cifar10/*/*.array_record*")):
            return Path(place).expanduser()
    pytest.skip("no prepared CIFAR-10; set TFDS_DATA_DIR to a directory that has it as array_record")
