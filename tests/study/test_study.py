"""Studies: what is to be done, what is done, who fails, and the table."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import ROOT, refused, run_program, tiny_config
from probed import make_results, write_run

from ddm_embed import config as config_lib
from ddm_embed.results import write
from ddm_embed.runs.files import locked
from ddm_embed.runs.provenance import fingerprint
from ddm_embed.study import plan, work, written

TINY = (
    "steps=20 data.augment=none diffusion.prediction=eps model.width=16 model.heads=2 model.depth=2 "
    "model.encoder_depth=1 embedding.dim=8 optimizer.warmup_steps=5 optimizer.ema_decay=0.9 "
    "optimizer.learning_rate=1e-3 train.batch_size=16 train.log_every=5 train.checkpoint_every=10 train.picture_every=0"
)
FEW = "noise_draws=1 times=(0.0,) measures=False training_images=200 selection_images=200"


def study(**changes):
    """A study of tiny runs on the digits, of the tests' own config."""
    c = config_lib.study_default()
    c.update({"overrides": TINY, "seeds": (0, 1), "probe_overrides": FEW, **changes})
    return c


def as_a_run(run):
    """The run's config, but for what is not of its result."""
    return {k: v for k, v in config_lib.flatten(run.config).items() if k != "name" and not config_lib.is_free(k)}


def test_arms_and_seeds_become_runs_whose_commands_give_their_configs(tmp_path):
    arms = ("ddm,mae", "wide: arm=ae model.width=32 steps=30")
    runs = plan.make(study(arms=arms), tmp_path)
    assert [run.name for run in runs] == ["ddm_0", "mae_0", "wide_0", "ddm_1", "mae_1", "wide_1"]
    ddm, _, wide = runs[:3]
    assert as_a_run(ddm) == as_a_run(SimpleNamespace(config=tiny_config()))
    assert wide.config.objective.name == "autoencoder" and wide.config.model.width == 32 and wide.steps == 30
    assert wide.config.name == "wide" and [run.config.train.seed for run in runs] == [0, 0, 0, 1, 1, 1]
    assert wide.command("train")[:3] == ["ddm_embed.main", "--config", "digits:arm=ae,steps=30"]
    assert wide.command("train")[-3:] == ["--config.train.seed=0", "--workdir", str(tmp_path / "wide_0")]
    assert wide.command("probe")[:2] == ["ddm_embed.probe", "--config"]
    assert ddm.probe.config.times == (0.0,) and ddm.probe.config.training_images == 200
    assert not ddm.config.probe.after_training
    assert plan.make(study(probe_overrides=""), tmp_path)[0].config.probe.after_training  # the same probe, at once


def test_equal_flops_give_each_arm_the_steps_of_the_firsts_operations(tmp_path):
    arms = ("ddm", "wide: arm=ddm model.width=32", "byol: data.augment=simclr", "random", "own: arm=ae train.steps=7")
    runs = plan.make(study(arms=arms, seeds=(0,), equal="flops", overrides=f"{TINY} steps=4000"), tmp_path)
    steps, shapes = {run.arm: run.steps for run in runs}, {}
    step = {run.arm: plan.flops_of_step(run.config, shapes) for run in runs}
    assert steps["ddm"] == 4000 and steps["random"] == 0 and steps["own"] == 7
    assert steps["wide"] < 2000  # a width of twice as much takes two to four times the operations
    for arm in ("wide", "byol"):
        assert abs(steps[arm] * step[arm] - 4000 * step["ddm"]) <= step[arm] / 2
        assert f"--config.train.steps={steps[arm]}" in next(run for run in runs if run.arm == arm).arguments


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10_gpu"])
def test_the_studies_that_come_with_the_package_are_valid(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "open_source", lambda config: SimpleNamespace(image_shape=(32, 32, 3)))
    from ddm_embed import cli

    config = cli.parse(["--config", name], cli.new_flags(), config_lib.study_default, room="studies")
    runs = plan.make(config, tmp_path)
    assert len(runs) == len(config.arms) * len(config.seeds) and config.name.startswith(name)
    if name == "fashion_mnist":  # as the table was made
        ddm = runs[0].config
        assert (ddm.train.steps, ddm.train.batch_size, ddm.model.width, ddm.model.heads) == (500, 128, 64, 2)
        assert (runs[0].probe.config.training_images, runs[0].probe.config.noise_draws) == (20_000, 2)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.arms=ddn"], "config.arms, ddn: config argument 'arm=ddn'; use one of ddm, "),
        (["--config.arms=mae,mae"], "config.arms: 'mae' is no name of a row, or one twice"),
        (["--config.arms=('a/b: arm=mae',)"], "config.arms: 'a/b' is no name of a row"),
        (["--config.arms=('ddm','ddm2: arm=ddm')"], "config.arms: ddm and ddm2 are of one config; change one"),
        (
            ["--config.arms=('wide: arm=ae model.widht=3',)"],
            "config.arms, wide: config.model.widht: no such field; did you",
        ),
        (["--config.arms=('wide: arm=ae model.width=6',)"], "config.arms, wide: config.model.width=6 must divide by 4"),
        (["--config.arms=()"], "config.arms is empty"),
        (["--config.seeds=0,1,0"], "config.seeds=(0, 1, 0): expected different integers"),
        (["--config.seeds=-1"], "config.seeds=(-1,): expected different integers"),
        (["--config.overrides=train.steps"], "config.overrides: 'train.steps': expected KEY=VALUE"),
        (["--config.overrides=train.steps=many"], "config.arms, ddm: "),
        (["--config.probe_overrides=training_imagse=3"], "config.probe_overrides: config.training_imagse: no such"),
        (["--config.protocols=rigde"], "config.protocols=rigde: use one or more of ridge"),
        (["--config.equal=minutes"], "config.equal='minutes'; use one of steps, flops"),
        (["--config.base=digit"], "config.arms, ddm: --config digit: no such file, nor a config of this name"),
        (["--workdir=gs://b/x"], "a study locks its runs"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line_before_anything(flags, words, tmp_path, monkeypatch):
    monkeypatch.setattr("ddm_embed.runs.files.place", lambda text: text if "://" in text else tmp_path / text)
    monkeypatch.setattr("ddm_embed.runs.files.is_store", lambda path: "://" in str(path))
    given = [flag for flag in ("--config.arms=ddm,", f"--workdir={tmp_path / 'w'}") if flag[:9] != flags[0][:9]]
    assert words in refused(run_program("ddm_embed.study", "digits", *given, *flags))
    assert not (tmp_path / "w").exists()


def test_a_study_is_found_by_name_or_path_alone():
    assert "no such file, nor a config of this name; there are " in refused(run_program("ddm_embed.study", "digit"))
    assert "give a config file, such as configs/studies/digits.py" in refused(run_program("ddm_embed.study"))
    line = refused(run_program("ddm_embed.study", "configs/digits.py"))
    assert "is of another program; give one that starts from config.study_default()" in line
    assert "digits.py" in config_lib.find_file("digits", "studies").partition("studies")[2]


def test_a_directory_of_another_config_is_refused_and_one_of_this_goes_on(tiny_run, tmp_path):
    (tmp_path / "ddm_0").symlink_to(tiny_run[1])
    (run,) = plan.make(study(seeds=(0,)), tmp_path)
    assert run.step() == 20 and run.stages() == ["probe"]
    with pytest.raises(plan.UserError, match=r"ddm_0 holds a run of another config: train.steps was 20, is 30"):
        plan.make(study(seeds=(0,), overrides=f"{TINY} steps=30"), tmp_path)


@pytest.mark.parametrize("change", ["config", "probe", "seed", "step", "damage", None])
def test_only_results_of_this_run_and_this_probe_count(change, tiny_run, tmp_path):
    workdir = tmp_path / "ddm_0"
    workdir.mkdir()
    for name in ("config.json", "checkpoints"):
        (workdir / name).symlink_to(tiny_run[1] / name)
    (run,) = plan.make(study(seeds=(0,)), tmp_path)
    results = make_results("ddm", checkpoint_step=10 if change == "step" else 20)
    results["manifest"]["config_hash"] = "no" if change == "config" else fingerprint(run.config)
    results["manifest"]["probe_hash"] = "no" if change == "probe" else fingerprint(run.probe.config)
    results["seeds"]["probe"] = 1 if change == "seed" else 0
    write_run(workdir, results, predictions=False)
    assert run.stages() == ["probe"]  # the page is written last
    (workdir / "probe" / "linear" / "report.html").touch()
    if change == "damage":
        (workdir / "probe" / "linear" / "results.json").write_text(write(results)[:-100])
    assert run.is_done() == (change is None)


FAKE = """
import os, signal, sys, time
name, what, place = sys.argv[1:]
if what == "fail":
    sys.exit("said before\\nerror: config.train.steps=0; expected at least 1")
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "saved":
    sys.exit(75)
if what == "slow":
    open(f"{place}/{name}.begun", "w").close()
    time.sleep(60)
while what == "both" and len([n for n in os.listdir(place) if n.startswith("at_")]) < 2:  # until two are at work
    open(f"{place}/at_{os.environ['CUDA_VISIBLE_DEVICES']}", "w").close()
    time.sleep(0.01)
open(f"{place}/{name}.done", "w").close()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes runs whose programs take no time; `whats` by name."""
    (tmp_path / "fake_program.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    class Fake(SimpleNamespace):
        def is_done(self):
            return (tmp_path / f"{self.name}.done").exists()

        def stages(self):
            return [] if self.is_done() else ["train"]

        def command(self, stage):
            return ["fake_program", self.name, self.what, str(tmp_path)]

    def make(**whats):
        return [Fake(name=name, arm=name, what=what, path=tmp_path / name, steps=5) for name, what in whats.items()]

    return make


def test_a_run_that_fails_is_named_with_its_error_and_the_others_go_on(fake, tmp_path):
    runs = fake(a="fail", b="well", c="killed", d="saved", e="well")
    ended = work.carry_out(runs, tmp_path, [{}])
    error = f"config.train.steps=0; expected at least 1 ({tmp_path}/logs/a.log)"
    assert ended == {"a": error, "c": None, "d": None}
    assert [run.name for run in runs if run.is_done()] == ["b", "e"]
    assert "said before" in (tmp_path / "logs" / "a.log").read_text()
    before = work.read_seconds(tmp_path)
    assert before.keys() == set("abcde")
    for run in runs:
        run.what = "well"
    assert work.carry_out(runs, tmp_path, [{}]) == {} and all(run.is_done() for run in runs)
    after = work.read_seconds(tmp_path)
    assert after["b"] == before["b"] and after["c"] >= before["c"]


def test_runs_are_done_at_once_on_devices_of_their_own(fake, tmp_path):
    assert work.carry_out(fake(a="both", b="both"), tmp_path, [{"CUDA_VISIBLE_DEVICES": name} for name in "56"]) == {}
    assert {"at_5", "at_6"} <= {path.name for path in tmp_path.iterdir()}


def test_asked_to_stop_a_study_stops_the_run_at_work_and_begins_no_other(fake, tmp_path):
    runs, before = fake(a="slow", b="well"), signal.getsignal(signal.SIGTERM)

    def ask():
        while not (tmp_path / "a.begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work.carry_out(runs, tmp_path, [{}])
    assert time.monotonic() - begin < 30 and not any(run.is_done() for run in runs)
    assert signal.getsignal(signal.SIGTERM) == before and work.read_seconds(tmp_path).keys() == {"a"}


def test_a_run_that_another_process_trains_is_waited_for(fake, tmp_path):
    (run,) = fake(a="well")
    run.path.mkdir()
    with locked(run.path / ".lock"):
        thread = threading.Thread(target=work.carry_out, args=([run], tmp_path, [{}]))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not (tmp_path / "logs" / "a.log").exists()
    thread.join(10)
    assert run.is_done()


@pytest.mark.parametrize(
    "platform, number, mesh, visible, names",
    [
        ("cpu", 1, {}, None, [None]),
        ("cpu", 8, {}, None, [None]),
        ("tpu", 4, {}, None, [None]),
        ("gpu", 1, {}, None, [None]),
        ("gpu", 3, {}, None, ["0", "1", "2"]),
        ("gpu", 2, {}, "4,7", ["4", "7"]),
        ("gpu", 2, {"fsdp": 2}, None, [None]),
    ],
)
def test_each_of_several_gpus_has_a_run_unless_a_run_needs_all(platform, number, mesh, visible, names, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    runs = [SimpleNamespace(config=SimpleNamespace(mesh={"data": -1, "fsdp": 1, "tensor": 1} | mesh))]
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in work.places(runs, platform, number)] == names


def test_the_time_left_is_what_runs_of_the_arm_took_or_else_the_mean_of_all():
    a0, a1, b0, c0 = (SimpleNamespace(name=f"{arm}", arm=arm[0]) for arm in ("a0", "a1", "b0", "c0"))
    assert work.time_left([], [a0], {}) is None
    seconds = {"a0": 10.0, "b0": 40.0, "a1": 3.0}
    assert work.time_left([a0, b0], [a1, c0], seconds) == (10 - 3) + 25


def test_a_dry_run_tells_what_is_left_and_how_long_it_takes_and_writes_nothing(tiny_run, tmp_path):
    (tmp_path / "ddm_0").symlink_to(tiny_run[1])
    runs = plan.make(study(arms=("ddm", "random")), tmp_path)
    from ddm_embed.study import forecast

    told = forecast.text(runs, tmp_path)
    assert told.startswith(f"4 runs in {tmp_path}, 1 at once on 1 cpu; 0 are done")
    assert "\nddm: 20 steps of 16, " in told and "  seed 0: probe\n  seed 1: train and probe\n" in told
    assert re.search(r"in all: 00:\d\d( to 00:\d\d)?; probing comes on top", told)
    assert "python -m ddm_embed.main --config digits:arm=ddm,steps=20 --config.name=ddm " in told
    assert [path.name for path in tmp_path.iterdir()] == ["ddm_0"]


def test_the_table_and_the_figure_say_what_they_were_made_by_and_what_is_missing(tmp_path):
    runs = plan.make(study(arms=("ddm", "mae"), table="out/t.md", figure="f.png", name="both"), tmp_path)
    for place, run in enumerate(runs[:3]):
        results = make_results(run.arm, run.seed, 0.7 + 0.1 * (run.arm == "mae"), protocols=("ridge",))
        write_run(run.path, results, images=100)
        (tmp_path / work.SECONDS).write_text(json.dumps({one.name: 60.0 for one in runs[: place + 1]}))
    told = written.write(study(name="both", table="out/t.md", figure="f.png"), runs[:3], runs[3:], tmp_path, "CMD")
    text = (tmp_path / "out" / "t.md").read_text()
    assert f"{tmp_path}/out/t.md, {tmp_path}/f.png, " in told and (tmp_path / "f.png").read_bytes()[1:4] == b"PNG"
    assert "Not whole: mae_1 are missing" in text and "![Accuracy of each run](../f.png)" in text
    assert re.search(r"^\| ddm \| \**0.7\d+ ± 0.\d+ \(2\)", text, re.M) and re.search(
        r"^\| mae \| .*- \(1\)", text, re.M
    )
    for fact in ("```sh\nCMD\n```", "* commit: 7799bd76", "* device: cpu x 1", "* seeds: 0, 1", "* wall time: 03:00"):
        assert fact in text
    assert "| ddm | 2 | 20 | 1.0 |" in text and " --workdir " + str(tmp_path / "mae_0") in text


@pytest.mark.slow
def test_a_study_that_is_killed_half_way_goes_on_and_writes_the_table(tmp_path):
    """SIGKILL to it and to the run at work; then the same command."""
    workdir = tmp_path / "study"
    values = {
        "arms": ("mae", "random"),
        "seeds": (0, 1),
        "overrides": TINY,
        "probe_overrides": FEW,
        "protocols": ("ridge",),
    }
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-m", "ddm_embed.study", "digits", *flags, "--workdir", str(workdir)]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while "1 of 4 runs done" not in (line := first.stderr.readline()):
        assert line, "it ended"
    while not (workdir / "logs" / "random_0.log").exists():
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (workdir / "table.md").exists()
    done = (workdir / "mae_0" / "probe" / "linear" / "results.json").stat().st_mtime_ns
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "1 of 4 runs are done" in second.stderr and "4 of 4 runs done; ETA 00:00" in second.stderr
    assert (workdir / "mae_0" / "probe" / "linear" / "results.json").stat().st_mtime_ns == done
    text = (workdir / "table.md").read_text()
    assert "Not whole" not in text and re.search(r"^\| mae \| .* \(2\)", text, re.M) and "| random | 2 | 0 |" in text
    assert "* seeds: 0, 1\n* wall time: 0" in text and (workdir / "figure.png").exists()


def test_threads_that_end_at_once_note_the_time_of_each(tmp_path):
    clock, names = work.Clock(tmp_path), [f"run_{i}" for i in range(16)]
    for name in names:
        clock.begin(name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(clock.end, names))
    assert work.read_seconds(tmp_path).keys() == set(names)
