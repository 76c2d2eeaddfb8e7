"""The programs as a user runs them: end to end, and on bad input."""

import importlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags as absl_flags
from conftest import ROOT, flags_of, refused, run_module, run_program, tiny_config
from PIL import Image

from ddm_embed import config as config_lib
from ddm_embed import reference

LAST_LINE = re.compile(
    r"test accuracy ([01]\.\d{4}) \+- 0\.\d{4} over noise \(feature=\w+, t=[\d.]+; pixels [01]\.\d{4}\)"
)


PROGRAMS = {  # and the config that each of them has
    "main": config_lib.default, "preflight": config_lib.default, "probe": config_lib.probe_default,
    "sample": config_lib.sample_default, "embed": None, "search": None, "export": None, "compare": None,
    "study": config_lib.study_default,
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_tells_every_flag_and_every_field_of_the_config(name):
    module = importlib.import_module("ddm_embed.main" if name == "main" else f"ddm_embed.{name}.__main__")
    told = run_program(f"ddm_embed.{name}", "--workdir=x", "--help")
    assert told.returncode == 0 and module.__doc__.strip() in told.stdout
    fields = config_lib.flatten(PROGRAMS[name]()) if PROGRAMS[name] else ()
    for given in [f"--{flag}" for flag in module.FLAGS] + [f"--config.{field}" for field in fields]:
        assert f"\n  {given}=" in told.stdout, given


def test_programs_are_imported_together_and_tell_their_flags_without_jax():
    code = (
        "import sys, importlib\n"
        f"for program in [importlib.import_module(f'ddm_embed.{{name}}') for name in {list(PROGRAMS)}]:\n"
        "    assert program.main(['--help']) == 0\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=ROOT, check=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_programs_process_ends_with_its_code(name):
    """The others here are called in this process."""
    assert "Unknown command line flag 'wrokdir'" in refused(run_module(f"ddm_embed.{name}", "--wrokdir=x"))


def test_what_help_says_of_fields_is_what_the_code_says():
    assert reference.FIELDS.read_text() == reference.to_tsv(), "run python -m ddm_embed.reference"


def test_a_program_leaves_the_process_as_it_was(tmp_path):
    """Each call has flags of its own; the log and the signals are as before, absl's global flags have none of them."""

    def state():
        logger, signals = logging.getLogger("ddm_embed"), (signal.SIGTERM, signal.SIGINT)
        return logger.handlers[:], logger.level, logger.propagate, list(map(signal.getsignal, signals)), sys.argv[:]

    before = state()
    assert run_program("ddm_embed.sample", "--list", "--config.images=3").returncode == 0
    assert "no run" in refused(run_program("ddm_embed.embed", f"--workdir={tmp_path}", "--images=x", "--out=x.npz"))
    assert "--workdir is missing" in refused(run_program("ddm_embed.embed", "--images=x", "--out=x.npz"))
    assert state() == before and not {"workdir", "config", "images"} & set(absl_flags.FLAGS)


def test_train_probe_resume_and_finish(tmp_path):
    """With the probe's own settings, and few images."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 120), ("test", 30)):
        labels = np.arange(number) % 3
        images = rng.integers(0, 90, (number, 8, 8, 1)) + 80 * labels.reshape(-1, 1, 1, 1)
        np.save(tmp_path / f"{part}_images.npy", images.astype(np.uint8))
        np.save(tmp_path / f"{part}_labels.npy", labels)
    config = tiny_config(**{"probe.after_training": True, "data.name": f"arrays:{tmp_path}"})
    arguments = [*flags_of(config), "--workdir", tmp_path / "run"]
    first = run_module("ddm_embed.main", *arguments)  # a process: the code 0
    assert first.returncode == 0, first.stderr
    assert LAST_LINE.fullmatch(first.stdout.splitlines()[-1])
    assert re.search(r"step 20/20  loss .* images/s  MFU .* ETA 00:00", first.stderr)
    assert json.loads((tmp_path / "run" / "probe" / "linear" / "results.json").read_text())["checkpoint_step"] == 20
    again = run_program("ddm_embed.main", *arguments)
    assert again.returncode == 0 and "is finished: step 20 of 20" in again.stderr and "loss" not in again.stderr


def start_main(config, workdir):
    """A training process, and a function that gives what it has said on stderr up to words, or all."""
    command = [sys.executable, "-m", "ddm_embed.main", *flags_of(config), "--workdir", str(workdir)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def read_until(words):
        said = ""
        while words not in said and (line := process.stderr.readline()):
            said += line
        return said

    return process, read_until


ENDLESS = {"train.steps": 10**5, "train.checkpoint_every": 10**6, "train.log_every": 20}


@pytest.mark.parametrize(
    "number, words",
    [
        (signal.SIGTERM, "step 20/"),
        pytest.param(signal.SIGHUP, "step 20/", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "parameters, listed in", marks=pytest.mark.slow),  # XLA is about to compile
    ],
)
def test_a_signal_saves_and_exits_with_its_own_code(number, words, tmp_path):
    process, read_until = start_main(tiny_config(**ENDLESS), tmp_path / "run")
    read_until(words)
    process.send_signal(number)
    errors = read_until("no such words")
    assert process.wait(timeout=60) == 75, errors
    step = int(re.search(r"saved at step (\d+) of 100000; run the same command again", errors).group(1))
    assert (tmp_path / "run" / "checkpoints" / str(step) / "digest.json").exists()
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("wait", [3.0, 5.0])
def test_ctrl_c_ends_the_probe_in_one_line(wait, tiny_run, tmp_path):
    command = [sys.executable, "-m", "ddm_embed.probe", f"--workdir={shutil.copytree(tiny_run[1], tmp_path / 'run')}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and errors.splitlines()[-1].startswith("stopped; run the same command"), errors
    assert "Traceback" not in errors


INTERRUPTED = """
import gc, sys, time
from ddm_embed import cli

def body(given, rest):
    def callback(*told):
        gc.callbacks.clear()
        raise KeyboardInterrupt
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(20)
    return 0

sys.argv = ["program"]
sys.exit(cli.run(None, "", cli.new_flags(), body))
"""


def test_ctrl_c_is_heard_though_python_drops_it_in_a_callback_of_the_garbage_collector():
    process = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 75 and process.stderr == "stopped; run the same command again to go on\n"


def test_without_a_home_programs_are_not_cached_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where a container's user is a number alone
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert run_program("ddm_embed.sample", "--list").returncode == 0
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.slow
def test_closed_and_broken_streams_end_nothing_without_a_word(tiny_run, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 1), np.uint8))
    embed = (
        f"{sys.executable} -m ddm_embed.embed --workdir={tiny_run[1]} --images={tmp_path}/images.npy --out={tmp_path}"
    )
    script = f"{embed}/closed.npz 2>&- >&-; echo $?; ({embed}/broken.npz; echo $? >{tmp_path}/code) | true"
    told = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "0\n"
    closed, broken = (np.load(tmp_path / f"{name}.npz")["embedding"] for name in ("closed", "broken"))
    np.testing.assert_array_equal(closed, broken)
    if (tmp_path / "code").read_text() != "0\n":  # it was read for long enough
        assert told.stderr.splitlines()[-1].startswith("error: whoever read the output has ended (broken pipe)")
    assert "Traceback" not in told.stderr and "Exception ignored" not in told.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.train.stepz=3"], "config.train.stepz: no such field; did you mean config.train.steps?"),
        (["--config.train.steps=many"], "config.train.steps=many"),
        (["--config.model.variant=Ti/3"], "patch 3 does not divide images of 8x8; use a patch of 1, 2, 4, 8"),
        (["--config.data.name=tfds:cifar11"], "TFDS knows no dataset cifar11"),
        (["--config.data.name=folder:/no/such/folder"], "no such folder"),
        (["--workdir", "README.md/run"], "--workdir README.md/run cannot be written (Not a directory)"),
        (["--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, tmp_path):
    workdir = [] if "--workdir" in flags else ["--workdir", tmp_path / "run"]
    line = refused(run_program("ddm_embed.main", *flags_of(tiny_config()), *workdir, *flags))
    assert message in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_config_that_is_missing_or_misspelt_ends_in_one_line():
    assert "--config is missing" in refused(run_module("ddm_embed.main"))  # a process: the code 1
    assert "no such file" in refused(run_program("ddm_embed.main", "--config", "configs/digit.py"))
    argument = refused(run_program("ddm_embed.main", "--config", "configs/digits.py:inputs=xt"))
    assert "expected key=value with key one of" in argument


def test_a_batch_that_the_mesh_does_not_divide_ends_in_one_line(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=3"
    process = run_module("ddm_embed.main", *flags_of(tiny_config()), "--workdir", tmp_path / "run", XLA_FLAGS=flags)
    assert "config.train.batch_size=16 does not divide over 3 devices" in refused(process)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_unreadable_image_ends_in_one_line_that_names_it(tmp_path, streamed):
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    broken = tmp_path / "7.png"
    broken.write_bytes(broken.read_bytes()[:120])
    config = tiny_config(**{"data.name": f"folder:{tmp_path}", "data.resident_gib": 0.0 if streamed else 2.0})
    process = run_program("ddm_embed.main", *flags_of(config), "--workdir", tmp_path / "run")
    assert f"{broken}: not a readable image" in refused(process)


def test_another_config_and_a_damaged_checkpoint(tiny_run, tmp_path):
    config, workdir = tiny_run
    shutil.copytree(workdir, tmp_path / "run")
    arguments = [*flags_of(config), "--workdir", tmp_path / "run"]
    line = refused(run_program("ddm_embed.main", *arguments, "--config.embedding.dim=9"))
    assert "holds a run of another config: embedding.dim was 8, is 9" in line
    (tmp_path / "run" / "checkpoints" / "20" / "train" / "_METADATA").write_text("{}")
    process = run_program("ddm_embed.main", *arguments)
    assert process.returncode == 0, process.stderr
    assert "checkpoint 20 is damaged (train/_METADATA has changed" in process.stderr
    assert "resuming at step 10 of 20" in process.stderr


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    config = tiny_config(**{"train.steps": 10**6})
    arguments = [*flags_of(config), "--workdir", str(tmp_path / "run")]
    first = subprocess.Popen([sys.executable, "-m", "ddm_embed.main", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while first.poll() is None and not (tmp_path / "run" / "config.json").exists():
            time.sleep(0.05)
        assert "another process is training in it" in refused(run_program("ddm_embed.main", *arguments))
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("platform, library", [("cuda", "jax_cuda13_plugin"), ("tpu", "libtpu")])
def test_a_platform_without_its_library_ends_in_one_line(platform, library, tmp_path):
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    arguments = ["--config", "configs/digits.py", "--workdir", tmp_path / "run"]
    line = refused(run_module("ddm_embed.main", *arguments, JAX_PLATFORMS=platform))
    assert line.startswith(f"error: JAX has no device to run on (JAX_PLATFORMS={platform}: ")


def test_a_config_of_the_other_program_ends_in_one_line(tiny_run):
    line = refused(run_program("ddm_embed.main", "--config", "configs/probe.py"))
    assert line.startswith("error: --config configs/probe.py is of another program; give one that starts from ")
    arguments = ["--workdir", tiny_run[1], "--config", "configs/digits.py"]
    assert "of another program" in refused(run_program("ddm_embed.probe", *arguments))


@pytest.mark.slow
def test_data_that_changed_since_the_run_began_is_refused(tmp_path):
    np.save(tmp_path / "train_images.npy", np.zeros((20, 8, 8, 1), np.uint8))
    config = tiny_config(**{"data.name": f"arrays:{tmp_path}", "train.steps": 6})
    arguments = [*flags_of(config), "--workdir", tmp_path / "run"]
    assert run_program("ddm_embed.main", *arguments).returncode == 0
    np.save(tmp_path / "train_images.npy", np.zeros((21, 8, 8, 1), np.uint8))
    assert "train_images was 20, is 21" in refused(run_program("ddm_embed.main", *arguments))


def test_probing_what_is_no_run_ends_in_one_line(tmp_path):
    assert "--workdir is missing" in refused(run_program("ddm_embed.probe"))
    assert "holds no run" in refused(run_program("ddm_embed.probe", "--workdir", tmp_path))


@pytest.mark.slow
def test_images_without_labels_train_and_are_measured_without(tmp_path):
    np.save(tmp_path / "train_images.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8, 5), np.uint8))
    config = tiny_config(**{"data.name": f"arrays:{tmp_path}", "probe.after_training": True, "train.steps": 6})
    process = run_program("ddm_embed.main", *flags_of(config), "--workdir", tmp_path / "run")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].startswith("not probed with labels: no protocol was run")
    results = json.loads((tmp_path / "run" / "probe" / "linear" / "results.json").read_text())
    assert results["measures"]["images"] == 9 and "protocols" not in results
    assert (tmp_path / "run" / "probe" / "linear" / "report.html").exists()


@pytest.mark.slow
def test_cifar10_trains_from_tfds_without_tensorflow(tfds_dir, tmp_path):
    small = ["model.width=16", "model.heads=2", "model.depth=1", "optimizer.warmup_steps=2", "train.batch_size=16"]
    small += [f"data.data_dir={tfds_dir}", "probe.after_training=False"]
    arguments = ["--config", "configs/cifar10.py:steps=200", *(f"--config.{field}" for field in small)]
    code = (
        "import runpy, sys, atexit\n"
        "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
        "runpy.run_module('ddm_embed.main', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *arguments, "--workdir", str(tmp_path / "run")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "False"


def test_pictures_are_listed_drawn_and_refused(tiny_run, tmp_path):
    _, workdir = tiny_run
    listed = run_program("ddm_embed.sample", "--list", "--workdir", workdir)
    assert listed.returncode == 0 and "wrong_z " in listed.stdout, listed.stderr
    assert listed.stdout.count("not of this run") == 3  # code_scatter, code_grid, samples

    shutil.copytree(workdir, tmp_path / "run")
    drawn = run_program("ddm_embed.sample", "--workdir", tmp_path / "run", "--picture=wrong_z", "--config.images=3")
    assert drawn.returncode == 0, drawn.stderr
    path = drawn.stdout.splitlines()[-1]
    assert path == f"{tmp_path}/run/samples/wrong_z.png" and Image.open(path).size[0] > 300

    for flags, message in [
        (["--picture=portrait"], "no such picture; use all or one of reconstructions,"),
        (["--picture=code_grid"], "train one with --config.embedding.dim=2"),
        (["--picture=one_z", "--config.sampler=rk4"], "config.sampler='rk4'; use one of ancestral, ddim"),
        (["--picture=detail", "--config.beside=/no/such"], "/no/such holds no run"),
    ]:
        assert message in refused(run_program("ddm_embed.sample", "--workdir", workdir, *flags))
