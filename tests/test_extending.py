"""docs/extending.md: its blocks of Python are one config file, which adds to each registry from outside the package."""

import dataclasses
import json
import shlex

import pytest
from conftest import ROOT, refused, run_program
from documents import SHORT, blocks

from ddm_embed import arms, methods
from ddm_embed import config as config_lib
from ddm_embed.data import sources
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.models import build
from ddm_embed.probe import protocols
from ddm_embed.report import sections
from ddm_embed.sample import pictures
from ddm_embed.validate import validate

pytestmark = pytest.mark.slow  # trains, probes, draws and compares
PAGE = ROOT / "docs" / "extending.md"
REGISTRIES = (
    methods.METHODS,
    build.ENCODERS,
    sources.KINDS,
    protocols.PROTOCOLS,
    protocols.HEADS,
    pictures.PICTURES,
    sections.SECTIONS,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder in which the page's commands ran, and what each printed; what they registered is gone afterwards."""
    before = [dict(registry) for registry in REGISTRIES]
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text("\n\n".join(block.text for block in blocks(PAGE, "python")))
    commands = [shlex.split(line) for block in blocks(PAGE, "sh") for line in block.text.splitlines()]
    told = {}
    short = SHORT | {"ddm_embed.main": f"{SHORT['ddm_embed.main']} --config.train.log_every=1"}
    for _, _, module, *arguments in commands:
        flags = shlex.split(short.get(module, ""))
        here = [part if part.startswith("-") or part == "noised" else str(folder / part) for part in arguments]
        told[module] = run_program(module, *here, *flags)
        assert told[module].returncode == 0, told[module].stderr
    yield folder, told
    for registry, kept in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(kept)


def test_a_method_from_outside_is_trained_probed_and_compared(toy):
    folder, told = toy
    run = folder / "runs" / "rotation"
    config = json.loads((run / "config.json").read_text())
    assert config["objective"]["name"] == "rotation" and config["rotation"] == {"turns": 4}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines and all({"loss", "accuracy", "mfu"} <= line.keys() for line in lines)
    assert lines[0]["loss"] < 3  # log 4 of a classifier that knows nothing is 1.39
    results = json.loads((run / "probe" / "linear" / "results.json").read_text())
    assert {point["feature"] for point in results["profile"]} == {"z", "encoder_1", "encoder_1_2x2"}
    assert "toy_rotation" in told["ddm_embed.compare"].stdout
    assert "rotation" in arms.ARMS


def test_the_fields_of_a_method_from_outside_are_checked_like_all_others(toy):
    config = config_lib.default()
    config.rotation.turns = 3
    with pytest.raises(UserError, match=r"rotation\.turns=3 has no effect .* set config\.objective\.name to rotation"):
        validate(config)
    arms.apply("rotation", config)
    validate(config)
    config.rotation.turns = 5
    with pytest.raises(UserError, match=r"rotation\.turns=5; expected between 2 and 4"):
        validate(config)


def test_a_method_takes_no_name_arm_or_field_of_another(toy):
    own = methods.METHODS["rotation"]
    for changes, reason in (
        ({"name": "simclr"}, "is there already"),
        ({"name": "other"}, "arm 'rotation' of method 'other' is one of 'rotation'"),
        (
            {"name": "other", "presets": {}, "fields": {"objective.temperature": Field(9.0, "")}},
            "another one of 'simclr'",
        ),
        ({"name": "other", "presets": {}, "fields": {"train.steps": Field(7, "")}}, "ROOM is none of"),
        ({"name": "other", "presets": {}, "fields": {"objective": Field(1, "")}}, "expected ROOM.NAME"),
        ({"name": "other", "presets": {}, "fields": {"other.weight": 1.0}}, "with a Field"),
    ):
        with pytest.raises(UserError, match=reason):
            methods.register(dataclasses.replace(own, **changes))
    methods.register(own)  # as where its config file is run again


def test_a_run_of_a_method_that_is_not_registered_says_so(toy, monkeypatch):
    folder, _ = toy
    monkeypatch.delitem(methods.METHODS, "rotation")
    message = refused(run_program("ddm_embed.probe", f"--workdir={folder}/runs/rotation"))
    assert "objective.name='rotation' is a method that is not registered here" in message


def test_an_encoder_from_outside_is_trained_and_named_among_the_others(toy):
    folder, _ = toy
    assert "encoder/patches/kernel" in (folder / "runs" / "toy" / "parameters.txt").read_text()
    config = config_lib.default()
    config.model.encoder = "patchwice"
    with pytest.raises(UserError, match=r"is not patchwise, or wrn-DEPTH-WIDENING .*, or transformer"):
        validate(config)


def test_a_source_from_outside_is_trained_on_and_named_among_the_others(toy):
    folder, _ = toy
    data = json.loads((folder / "runs" / "toy" / "data.json").read_text())
    assert (data["train_images"] + data["test_images"], data["image_shape"]) == (400, [8, 8, 1])
    config = config_lib.default()
    config.data.name = "strips:400"
    with pytest.raises(UserError, match="use digits, tfds:NAME, folder:PATH, arrays:PATH or stripes:NUMBER"):
        sources.open_source(config)
    config.data.name = "stripes:few"
    with pytest.raises(UserError, match="expected how many, 40 or more"):
        sources.open_source(config)


def test_a_protocol_from_outside_is_judged_and_compared_like_the_others(toy):
    folder, told = toy
    results = json.loads((folder / "runs" / "toy" / "probe" / "linear" / "results.json").read_text())
    assert list(results["protocols"]) == ["ridge", "means"] and results["dataset"] == "stripes:400"
    assert results["protocols"]["means"]["settings"] == {"head": "nearest class mean"}
    assert results["protocols"]["means"]["test_accuracy"] > 0.9  # the pixels alone tell the stripes
    assert "means" in told["ddm_embed.compare"].stdout and "means" in (folder / "compare" / "compare.csv").read_text()
    config = config_lib.probe_default()
    config.protocols = ("median",)
    with pytest.raises(UserError, match=r"use one or more of ridge, .*, trajectory, means"):
        protocols.check(config)


def test_a_picture_from_outside_is_drawn_and_refused_by_what_it_needs(toy):
    folder, _ = toy
    assert (folder / "runs" / "toy" / "samples" / "noised.png").stat().st_size > 1000
    assert "noised           images under noise, at each t" in run_program("ddm_embed.sample", "--list").stdout
    run = config_lib.default()
    run.embedding.input = "none"
    reason = pictures.obstacle(pictures.PICTURES["noised"], run, config_lib.sample_default())
    assert "this run has no encoder" in reason
    message = refused(run_program("ddm_embed.sample", f"--workdir={folder}/runs/toy", "--picture=noise"))
    assert message.endswith("inversion, noised")


def test_a_section_from_outside_ends_the_report(toy):
    folder, _ = toy
    page = (folder / "runs" / "toy" / "probe" / "linear" / "report.html").read_text()
    assert page.index('id="manifest"') < page.index('id="by_class"') and '<a href="#by_class">Accuracy by class' in page
    assert '<th scope="row">across</th>' in page
