"""results.json has one owner: what is written is read again, and a baseline is of one head, whatever the order."""

import html
import itertools
import json
import re

import pytest
from probed import make_results, write_run

from ddm_embed.compare.runs import measures, read_runs
from ddm_embed.compare.table import compare
from ddm_embed.errors import UserError
from ddm_embed.report.page import draw_profile, last_line, page
from ddm_embed.results import BASELINES, baseline_of, figures, read, write

PIXELS = {"ridge": 0.81, "knn": 0.79}  # as probed.py makes them; logistic regression is never fitted to pixels
KEYS = {"ridge": "pixels", "knn": "pixels_knn"}
ORDERS = [order for n in (1, 2, 3) for order in itertools.permutations(("ridge", "knn", "logistic"), n)]


def rows_of(text):
    """{first cell: the others} of the first table of protocols in a page."""
    found = text.partition("Test accuracy of each")[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", found, re.S)]
    return {row[0]: [html.unescape(cell).replace("\xa0", " ") for cell in row] for row in rows}


@pytest.fixture(params=ORDERS, ids="-".join)
def made(request):
    return make_results(protocols=request.param)


def test_a_baseline_is_of_ridge_by_its_plain_name_and_of_other_heads_by_theirs(made):
    assert made["baselines"]["pixels"] == PIXELS["ridge"] and made["baselines"]["pixels_knn"] == PIXELS["knn"]
    for name in ("ridge", "knn", "logistic", "fewshot_5", "finetune", None):
        found = baseline_of(made, name)
        assert (found and (found.key, found.accuracy)) == ((KEYS[name], PIXELS[name]) if name in PIXELS else None)
        choice = made["baseline_choices"].get(KEYS.get(name))
        assert (found and found.selected) == choice
    assert baseline_of({"baselines": None}, "ridge") is None


def test_the_report_shows_each_protocol_its_own_pixels(made, tmp_path):
    text = page(made, {}, {}, tmp_path)
    main = next(iter(made["protocols"]))
    rows = rows_of(text)
    for name in made["protocols"]:
        pixels = PIXELS.get(name)
        expected = ["-"] * 3 if pixels is None else [f"{100 * pixels + i:.2f} %" for i in range(3)]
        assert rows[name][-3:] == expected
    header = text.split("<nav")[0]
    assert ("From pixels" in header) == (main in PIXELS) == ("the same head" in header)
    if main in PIXELS:
        assert f"{100 * (made['test_accuracy'] - PIXELS[main]):+.2f} points" in header


@pytest.mark.parametrize("draws, expected", [([0.9], None), ([0.9, 0.92], 0.02 / 2**0.5), ([0.7, 0.8, 0.9], 0.1)])
def test_the_spread_over_draws_is_the_sample_deviation(draws, expected):
    assert figures(draws)["test_accuracy_std"] == (expected and pytest.approx(expected))


def test_the_last_line_and_the_picture_tell_the_pixels_of_the_first_protocol(made, tmp_path, monkeypatch):
    main = next(iter(made["protocols"]))
    line = last_line(made)
    assert line.startswith(
        f"test accuracy {made['test_accuracy']:.4f} +- {made['test_accuracy_std']:.4f} over noise (feature="
    )
    assert re.findall(r"pixels ([\d.]+)", line) == ([f"{PIXELS[main]:.4f}"] if main in PIXELS else [])
    titles, levels = [], []

    def keep(figure, path):
        titles.append(figure.get_suptitle())
        for axes in figure.axes:
            own = [drawn.get_ydata()[0] for drawn in axes.lines if drawn.get_label() == "pixels"]
            levels.append(own)

    monkeypatch.setattr("ddm_embed.report.page.save", keep)
    draw_profile(made, tmp_path / "profile.png")
    assert re.findall(r"from pixels ([\d.]+)", titles[0]) == ([f"{PIXELS[main]:.4f}"] if main in PIXELS else [])
    expected = [[pytest.approx(PIXELS[name] + 0.004)] if name in PIXELS else [] for name in made["protocols"]]
    assert levels == expected


def test_the_comparison_and_its_columns_have_each_protocols_own_pixels(made, tmp_path):
    (result,) = read_runs([write_run(tmp_path / "run", made)], None)
    found = {(m.protocol, m.baseline): m for m in measures(result)}
    own = {(name, None) for name in made["protocols"]}
    assert found.keys() == own | {(name, b) for name in made["protocols"] if name in PIXELS for b in BASELINES}
    assert len(found) == len(measures(result))
    ((table,), _) = compare([result])
    cells = next((row.cells for row in table.rows if row.name == "pixels"), {})
    shown = {name: [m.accuracy for m in cell] for name, cell in cells.items()}
    assert shown == {name: [PIXELS[name]] for name in made["protocols"] if name in PIXELS}
    for name, cell in cells.items():
        assert abs(cell[0].right.mean() - PIXELS[name]) < 1e-3  # its predictions are of the same head


def test_the_model_card_has_each_protocols_own_pixels(made, tmp_path):
    from ddm_embed.export.card import own_and_baselines

    (result,) = read_runs([write_run(tmp_path, made, predictions=False)], None)
    assert {own.protocol: pixels and pixels.accuracy for own, pixels in own_and_baselines(result)} == {
        name: PIXELS.get(name) for name in made["protocols"]
    }


def test_what_is_written_is_read_again_as_it_was():
    made = make_results()
    assert read(write(made), "here", "mend it") == made
    assert read(write({"checkpoint_step": 3, "protocols": None, "manifest": {}}), "here", "mend it")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"protocols": ["ridge"]}, 'protocols is ["ridge"], expected an object'),
        ({"protocols": {"knn": {"settings": {}}}}, "protocols.knn is without test_accuracy"),
        ({"baselines": {"pixels": "high"}}, 'baselines.pixels is "high", expected a number'),
        ({"profile": [{"protocol": "ridge", "t": 0.1}]}, "profile.0 is without feature, validation_accuracy"),
        ({"checkpoint_step": True}, "checkpoint_step is true, expected an integer"),
        ({"manifest": None}, "manifest is null, expected an object"),
    ],
)
def test_a_field_of_another_type_is_one_line_that_names_it(change, said):
    with pytest.raises(UserError) as caught:
        read(json.dumps(make_results() | change), "W/results.json", "probe again")
    assert str(caught.value) == f"W/results.json: {said}; probe again"


@pytest.mark.parametrize("text, said", [("[1]", "holds [1], expected an object"), ('{"a": ', "not readable as JSON")])
def test_what_is_no_json_object_is_refused(text, said):
    with pytest.raises(UserError, match="W: " + re.escape(said)):
        read(text, "W", "probe again")


def test_required_fields_that_are_missing_are_named_together():
    with pytest.raises(UserError, match="W: of an older version, without name, kind; probe again"):
        read("{}", "W", "probe again", ("name", "kind"))
    with pytest.raises(UserError, match=r"without manifest\.run; probe again"):
        read('{"manifest": {"commit": null}}', "W", "probe again", ("manifest", "manifest.run", "manifest.commit"))
