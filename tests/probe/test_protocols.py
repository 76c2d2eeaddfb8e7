"""Every named protocol on one tiny run: what it chooses, on what labels, and that test labels have no say."""

import dataclasses

import numpy as np
import pytest
from conftest import tiny_config

from ddm_embed import config as config_lib
from ddm_embed.data.types import Split
from ddm_embed.errors import UserError
from ddm_embed.heads.readers import levels
from ddm_embed.probe import evaluate as protocol
from ddm_embed.probe.protocols import PROTOCOLS, check
from ddm_embed.report.page import publish
from ddm_embed.runs import directory
from ddm_embed.runs.directory import RunDirectory

SLOW = ("ridge", "logistic", "ddae", "mae", "dinov2", "mlp", "fewshot", "propagation", "finetune", "semi", "trajectory")
READERS = ("single", "mean", "concatenate", "attention", "gru", "learned_t")
EXPECTED = {
    *("ridge", "logistic", "ddae*", "mae*", "dinov2*", "mlp*", "finetune*"),
    *(f"{name}_{n}" for name in ("fewshot", "propagation") for n in (1, 3)),
    *(f"{name}_{n}*" for name in ("semi", "scratch") for n in (1, 3)),
    *(f"trajectory_{name}" for name in READERS),
}


def quick(protocols):
    c = config_lib.probe_default()
    c.protocols, c.times, c.noise_draws, c.measures = protocols, (0.0, 0.3), 1, False
    c.recipe = "epochs=1;iterations=3;learning_rates=(1e-3, 1e-2)"
    c.shots, c.shot_draws, c.semi_draws = (1, 3), 3, 1
    c.reader_levels, c.reader_rates, c.learned_t_rates, c.reader_epochs, c.reader_width = (2,), (1e-3,), (3e-2,), 1, 8
    return c


@pytest.fixture(scope="module")
def results(tiny_run):
    return protocol.evaluate(tiny_run[0], quick(SLOW), tiny_run[1]).results


@pytest.mark.slow
def test_every_protocol_says_how_it_came_about_and_what_it_chose(results):
    assert set(results["protocols"]) == EXPECTED
    for name, found in results["protocols"].items():
        assert 0 <= found["test_accuracy"] <= 1 and found["settings"], name
        assert found["selected"]["feature"].split("@")[0].removesuffix("_2x2") in (
            "z",
            "encoder_1",
            "denoiser_1",
            "denoiser_2",
        ), name
    assert results["protocols"]["fewshot_1"]["selected"]["validation_accuracy"] is None
    assert "RankMe" in results["protocols"]["fewshot_1"]["settings"]["feature chosen by"]
    assert len(results["protocols"]["propagation_3"]["test_accuracy_draws"]) == 3


@pytest.mark.slow
def test_a_single_level_is_chosen_among_the_trajectorys(results):
    single = [e for e in results["profile"] if e["protocol"] == "trajectory_single"]
    assert [e["t"] for e in single] == levels(2).tolist()
    assert results["protocols"]["trajectory_concatenate"]["selected"]["feature"] == "z@2"
    assert 0 < results["protocols"]["trajectory_learned_t"]["selected"]["t"] < 1


@pytest.mark.slow
def test_no_protocol_chooses_by_test_labels(tiny_run, results, monkeypatch):
    original, reads = directory.open_source, []

    def open_source(config):
        source = original(config)

        def read():
            reads.append(1)
            return np.random.default_rng(0).integers(0, 10, len(source.test))

        return dataclasses.replace(source, test=Split(source.test.images, read))

    monkeypatch.setattr(directory, "open_source", open_source)
    noise = protocol.evaluate(tiny_run[0], quick(SLOW), tiny_run[1]).results
    assert len(reads) == 1
    for name, found in results["protocols"].items():
        assert noise["protocols"][name]["selected"] == found["selected"], name
    assert noise["profile"] == results["profile"]


def test_every_protocol_is_tested_here_and_the_default_is_sound():
    assert set(SLOW) | {"knn"} == set(PROTOCOLS)
    check(config_lib.probe_default())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("protocols", ("rigde",), "config.protocols=rigde: use one or more of ridge, logistic, knn"),
        ("protocols", (), "config.protocols=: use one or more"),
        ("readers", ("mean,median",), "config.readers=mean,median: use one or more of single"),
        ("recipe", "epoch=3", "epoch is no setting of a recipe"),
        ("recipe", "epochs", "expected setting=value"),
        ("logistic_strengths", (0.0,), "config.logistic_strengths=.*above 0"),
        ("shots", (0,), "config.shots=.*whole numbers above 0"),
    ],
)
def test_a_config_that_no_protocol_takes_is_refused_before_anything_is_read(field, value, message):
    config = config_lib.probe_default()
    config[field] = value
    with pytest.raises(UserError, match=message):
        check(config)


def without(labels=None, test=True):
    """A source as `open_source` gives it, whose labels are replaced or gone."""
    original = directory.open_source

    def open_source(config):
        source = original(config)
        read = labels and (lambda: labels(source.train.read_labels()))
        train = Split(source.train.images, read)
        return dataclasses.replace(source, train=train, test=source.test if test else None)

    return open_source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (without(), "has no labels"),
        (without(lambda labels: labels * 0), "are of one class"),
        (without(lambda labels: labels, test=False), "no labelled test images"),
    ],
    ids=["no labels", "one class", "no test images"],
)
def test_what_cannot_be_judged_still_has_measures_and_says_why(tiny_run, monkeypatch, source, said):
    monkeypatch.setattr(directory, "open_source", source)
    monkeypatch.setattr(RunDirectory, "check_data", lambda *arguments: None)
    config = quick(("ridge",))
    config.measures, config.measure_images, config.times = True, 60, (0.0, 0.3)
    results = protocol.evaluate(tiny_run[0], config, tiny_run[1]).results
    assert "protocols" not in results and said in results["warnings"][0]
    points = results["measures"]["profile"]
    assert len(points) == 8 and all(np.isfinite(p["rankme"]) and p["rankme"] >= 1 for p in points)
    assert np.shape(results["measures"]["cka"]["matrix"]) == (8, 8)


@pytest.mark.slow
def test_classes_that_training_lacks_are_counted_wrong_and_said(tiny_run, monkeypatch):
    original = directory.open_source

    def open_source(config):
        source = original(config)
        known = np.flatnonzero(source.train.read_labels() < 7)
        labels = source.train.read_labels()[known]
        train = Split(np.asarray(source.train.images)[known], lambda: labels)
        return dataclasses.replace(source, train=train)

    monkeypatch.setattr(directory, "open_source", open_source)
    monkeypatch.setattr(RunDirectory, "check_data", lambda *arguments: None)
    config = quick(("ridge",))
    config.times = (0.0,)
    results = protocol.evaluate(tiny_run[0], config, tiny_run[1]).results
    unseen = int(np.sum(original(tiny_config()).test.read_labels() >= 7))
    assert any(text.startswith(f"{unseen} test images are of classes without") for text in results["warnings"])
    assert results["test_accuracy"] <= 1 - unseen / 500
    assert np.sum(results["confusion"]) == 500 - unseen and len(results["confusion"]) == 7


@pytest.mark.slow
def test_few_labels_alone_are_published_without_a_profile(tiny_run, tmp_path):
    config = quick(("fewshot",))
    config.times = (0.0,)
    evaluation = protocol.evaluate(tiny_run[0], config, tiny_run[1])
    publish(evaluation, tmp_path)
    assert set(evaluation.results["protocols"]) == {"fewshot_1", "fewshot_3"} and not evaluation.results["profile"]
    assert (tmp_path / "report.html").exists() and not (tmp_path / "profile.png").exists()
