"""The model card that an export comes with."""

import json

import yaml
from conftest import tiny_config
from probed import make_results, write_run
from random_run import make_frozen

from ddm_embed import arms
from ddm_embed.export import written
from ddm_embed.features.choice import Choice


def card_of(tmp_path, frozen, choice, *results):
    (tmp_path / "data.json").write_text(json.dumps({"train_images": 7, "image_shape": [8, 8, 1]}))
    for place, found in enumerate(results):
        write_run(tmp_path, found, predictions=False, probe=("linear", "other")[place])
    documents = written.read_documents(tmp_path)
    return written.card(frozen, choice, 8, documents, "cc-by-4.0")


def test_the_card_tells_what_was_measured_and_under_what(tmp_path):
    frozen = make_frozen(tiny_config())
    results = make_results(checkpoint_step=3, dataset="folder:/home/me/pets", commit="c0ffee" + 34 * "0", dirty=True)
    chosen = results["protocols"]["ridge"]["selected"]
    encoder = {"selected": chosen | {"feature": "encoder_3", "t": 0.4}, "test_accuracy": 0.5, "test_accuracy_std": 0.25}
    results["protocols"]["ridge"]["encoder"] = encoder
    text = card_of(tmp_path, frozen, Choice(chosen["feature"], chosen["t"], "probe linear of step 3"), results)
    for name, found in results["protocols"].items():
        assert f"| {found['test_accuracy']:.4f} ± {found['test_accuracy_std']:.4f} |" in text, name
    assert f"| ridge | {chosen['feature']} (exported) | {chosen['t']:g} | " in text
    assert "| ridge, encoder | encoder_3 | 0.4 | 0.5000 ± 0.2500 | 0.8100 |" in text
    assert f"held-out training images: ridge {chosen['validation_accuracy']:.4f}" in text
    for fact in (
        "60000 to fit, 10000 to test",
        "train 0, probe 0",
        "cpu x 1",
        "jax 0.10.2",
        "c0ffee000000 with changes",
    ):
        assert fact in text
    assert "`pets`" in text and "/home" not in text, "the place of the data is nobody's business"
    assert "class Shirt has 12 images" in text


def test_the_front_matter_of_the_card_is_what_hubs_read(tmp_path):
    text = card_of(tmp_path, make_frozen(tiny_config()), Choice("z", 0.0, "a test"))
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0" and front["library_name"] == "ddm_embed"
    assert front["pipeline_tag"] == "image-feature-extraction" and "diffusion" in front["tags"]
    assert "**Nothing was measured of this run**" in body and "$" not in body


def test_that_t_has_no_effect_is_said_only_where_it_is_so(tmp_path):
    for arm, timeless in (("ddm", False), ("drl-static", False), ("ae", True)):
        config = tiny_config()
        arms.apply(arm, config)
        frozen = make_frozen(config)
        frozen = frozen.replace(chosen=(frozen.choice, (0.5,)))  # as of a probe that read one level
        text = card_of(tmp_path, frozen, Choice("z", 0.5, "a test"))
        assert ("t has no effect" in text) == timeless, arm


def test_results_of_another_step_are_marked_as_such(tmp_path):
    text = card_of(tmp_path, make_frozen(tiny_config()), Choice("z", 0.0, "a test"), make_results(checkpoint_step=2))
    assert "**Of step 2; the weights here are of step 3.**" in text


def test_a_probe_without_results_is_named_and_keeps_nothing_from_being_written(tmp_path):
    (tmp_path / "probe" / "other").mkdir(parents=True)
    (tmp_path / "probe" / "third").mkdir()
    unlabelled = {"warnings": ["no protocol was run: it has no labels"], "checkpoint_step": 3, "manifest": {}}
    (tmp_path / "probe" / "third" / "results.json").write_text(json.dumps(unlabelled))
    text = card_of(tmp_path, make_frozen(tiny_config()), Choice("z", 0.0, "a test"), make_results())
    assert "Left out: probe `other`: results.json: missing." in text
    assert "Left out: probe `third`: no protocol was run: it has no labels." in text
    assert str(tmp_path) not in text
