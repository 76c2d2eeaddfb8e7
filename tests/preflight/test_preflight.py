import importlib.util
import json
from types import SimpleNamespace

import jax
import pytest
from conftest import ROOT, flags_of, refused, run_module, run_program, tiny_config

from ddm_embed.errors import UserError
from ddm_embed.parallel.chips import Chip
from ddm_embed.preflight import compiled, report, sweep
from ddm_embed.preflight.compiled import Machine, estimate, needed_bytes

IMAGE = (8, 8, 1)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'"
)


class Program:
    """What stands for a compiled step that needs 600 bytes and does nothing."""

    def memory_analysis(self):
        return SimpleNamespace(
            argument_size_in_bytes=500,
            output_size_in_bytes=400,
            alias_size_in_bytes=400,
            temp_size_in_bytes=70,
            generated_code_size_in_bytes=30,
        )

    def as_text(self):
        lines = ("  %x = f32[100]{0} parameter(0)", "  ROOT %y = f32[100]{0} add(%x, %x)")
        return "\n".join(("ENTRY %main (x: f32[100]) -> f32[100] {", *lines, "}"))


def small_machine(memory, chips=1):
    return Machine("a small one", jax.devices("cpu") * chips, Chip(flops=1e12, memory=memory, bandwidth=1e11))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("data=64,fsdp=4", (64, 4, 1)), ("fsdp=4", (-1, 4, 1)), ("tensor=2,data=3,fsdp=5", (3, 5, 2))],
)
def test_a_mesh_is_read_and_what_is_not_named_follows(text, sizes):
    assert tuple(report.parse_mesh(text).values()) == sizes


@pytest.mark.parametrize("text", ["model=2", "fsdp", "fsdp=0", "fsdp=x", "fsdp=2;data=2", "data=-1"])
def test_a_mesh_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"--mesh=.*: expected sizes of data, fsdp, tensor, such as data=64,fsdp=4"):
        report.parse_mesh(text)


def test_what_the_compiler_says_it_would_need_is_read():
    quick = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (51.93G)"
    assert needed_bytes(quick + " exceeds available HBM (15.75G).", 2**30) == pytest.approx(52.93 * 2**30)
    full = "Ran out of memory in memory space hbm. Used 18.05G of 15.75G hbm. Exceeded hbm capacity by 2.30G."
    assert needed_bytes(full, 2**30) == pytest.approx(18.05 * 2**30)
    assert needed_bytes("out of paper", 2**30) is None


def test_a_state_that_does_not_fit_is_not_compiled_and_more_chips_are_advised(monkeypatch):
    monkeypatch.setattr(compiled, "compile_step", None)
    machine = small_machine(1000)
    row = estimate(tiny_config(), IMAGE, machine)
    assert not row.fits and row.cost is None and row.needed == row.state.total > 1000
    assert report.advice(tiny_config(), IMAGE, machine, mend=True).startswith("use more chips")


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_answered_with_what_to_change(monkeypatch):
    state = estimate(tiny_config(), IMAGE, small_machine(1e9), compile=False).state.total
    machine = small_machine(state + 1000)
    said = report.advice(tiny_config(), IMAGE, machine, mend=False)
    assert said.startswith("try, cheapest first: --config.model.remat=dots; --config.model.remat=full; ")
    assert "--config.model.remat=full --config.train.accumulate=2" in said

    def refuse(config, *_):
        if config.train.accumulate < 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: HLO temporaries (1.00G) exceeds available HBM (1K)")
        return Program()

    monkeypatch.setattr(compiled, "compile_step", refuse)
    row = estimate(tiny_config(), IMAGE, small_machine(1e9))
    assert not row.fits and row.cost is None and row.needed == row.state.total + 2**30
    said = report.advice(tiny_config(), IMAGE, small_machine(1e9), mend=True)
    assert said.startswith("use --config.model.remat=full --config.train.accumulate=4, compiled: 0.00 MiB of ")


def test_a_sweep_tries_every_mesh_that_the_config_allows_and_names_the_best(monkeypatch):
    monkeypatch.setattr(compiled, "compile_step", lambda *_: Program())
    config = tiny_config(**{"train.batch_size": 64})
    assert sweep.meshes(config, IMAGE, 16, "tpu") == [(16, 1, 1), (4, 4, 1), (1, 16, 1)]
    assert sweep.meshes(config, IMAGE, 32, "tpu") == [(32, 1, 1), (8, 4, 1), (2, 16, 1)]  # width 16
    rows = list(sweep.sweep(config, IMAGE, [small_machine(1e9)]))
    assert [row.mesh for row in rows] == [(1, 1, 1)]
    assert sweep.best(rows) == (rows[0], rows[0])
    assert sweep.best(list(sweep.sweep(config, IMAGE, [small_machine(1000)]))) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--topology is missing; give a TPU slice, such as v5e:16x16, or here"),
        (["--topology=v5e:3x3"], "no such slice; use v5e: and one of 1x1, 2x2"),
        (["--topology=here", "--sweep"], "--topology=here has one size; --sweep and --scaling take a TPU slice"),
        (["--topology=here", "--sweep", "--mend"], "ask one"),
        (["--topology=here", "--image=8x8"], "--image=8x8: expected HEIGHTxWIDTHxCHANNELS, such as 256x256x3"),
        (["--topology=here", "--mesh=data=3"], "does not make 1 devices"),
    ],
)
def test_wrong_questions_are_answered_in_one_line(flags, message):
    assert message in refused(run_program("ddm_embed.preflight", *flags_of(tiny_config()), *flags))


@pytest.mark.slow
def test_the_program_reports_on_this_machine(tmp_path):
    path = tmp_path / "rows.json"
    done = run_program("ddm_embed.preflight", *flags_of(tiny_config()), "--topology=here", f"--json={path}")
    assert done.returncode == 0, done.stderr
    assert "parameters in all" in done.stdout and ": fits" in done.stdout and "no time is predicted" in done.stdout
    row = json.loads(path.read_text())[0]
    assert row["chips"] == 1 and row["collectives"] == []
    assert row["cost"]["flops"] == pytest.approx(row["model_flops"], rel=0.1)  # no gradient of the image is taken


@needs_libtpu
@pytest.mark.slow
def test_a_step_is_compiled_for_chips_that_are_not_there(tmp_path):
    path = tmp_path / "rows.json"
    config = tiny_config(**{"model.width": 128, "train.batch_size": 64})
    arguments = ["--topology=v5e:2x2", "--mesh=data=2,fsdp=2", f"--json={path}"]
    done = run_module("ddm_embed.preflight", *flags_of(config), *arguments, JAX_PLATFORMS="")
    assert done.returncode == 0, done.stderr
    assert "v5e:2x2: 4 chips, mesh data=2 fsdp=2 tensor=1" in done.stdout and "bound by" in done.stdout
    row = json.loads(path.read_text())[0]
    assert row["cost"]["flops"] == pytest.approx(row["model_flops"], rel=0.03)
    assert {"all-gather", "all-reduce"} <= {one["kind"] for one in row["collectives"]}
    assert row["memory"] == 15.75 * 2**30 and row["needed"] < 2**30
    assert 0 < row["mfu"][0] < row["mfu"][1] < 1


@needs_libtpu
@pytest.mark.slow
def test_a_gradient_is_added_up_in_bfloat16_between_data_parallel_chips(tmp_path):
    path = tmp_path / "rows.json"
    done = run_module("ddm_embed.preflight", *flags_of(tiny_config()), "--topology=v5e:2x2", f"--json={path}")
    assert done.returncode == 0, done.stderr
    row = json.loads(path.read_text())[0]
    added = sum(one["bytes"] * one["times"] for one in row["collectives"] if one["kind"] == "all-reduce")
    assert 2 * row["state"]["count"] <= added < 4.2 * row["state"]["count"]


@needs_libtpu
@pytest.mark.slow
def test_a_machine_with_libtpu_and_no_tpu_trains_on_its_cpu(tmp_path):
    done = run_module(
        "ddm_embed.main", *flags_of(tiny_config()), "--workdir", tmp_path / "run", JAX_PLATFORMS="", timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert ROOT.exists() and (tmp_path / "run" / "checkpoints" / "20").is_dir()
