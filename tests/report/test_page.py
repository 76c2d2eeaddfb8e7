"""The report as a page: what is in it, and how a browser shows it."""

import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from probed import FEATURES, NAMES, PROTOCOLS, TRAJECTORY, joint_results, make_results, write_run

from ddm_embed.compare import report
from ddm_embed.compare.runs import read_runs
from ddm_embed.compare.table import compare
from ddm_embed.probe import atlas as atlas_lib
from ddm_embed.report import charts
from ddm_embed.report.page import draw_profile, last_line, page, table, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
VOID = {"meta", "img", "input", "br", "image"}


class Balanced(HTMLParser):
    """Fails on a tag that is not closed; collects the text, ids and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.ids, self.links, self.images = [], [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.images += [found] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        self.text.append(data)


def made_atlas(number=120, labelled=True, side=28):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, number)
    x = (3 * rng.normal(size=(10, 16))[labels] + rng.normal(size=(number, 16))).astype(np.float32)
    images = rng.integers(0, 256, (number, side, side, 1), dtype=np.uint8)
    both = (labels[:-4], labels[-4:]) if labelled else None
    features = {t: (x[:-4], x[-4:]) for t in (0.0, 0.2, 0.9)}
    return atlas_lib.make_map(x, images, labels if labelled else None, "z", 0.2, 0) | atlas_lib.make_strips(
        features, images[:-4], images[-4:], both, "z", 8
    )


def without_labels():
    results = make_results(dataset="folder")
    for point in results["measures"]["profile"]:
        point["retrieval_map"] = None
    absent = ("classes", "confusion", "selected", "test_accuracy", "test_accuracy_std")
    return results | dict.fromkeys(absent) | {"protocols": {}, "profile": [], "baselines": {}, "baseline_choices": {}}


@pytest.fixture(scope="module")
def pictures():
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(content, "PNG")
    return {"one_z": content.getvalue()}


def test_the_page_is_one_sound_file_with_every_section_linked_and_every_image_described(tmp_path, pictures):
    results = make_results(protocols=[*PROTOCOLS, *TRAJECTORY])
    path = write_page(results, made_atlas(), pictures, tmp_path / "probe" / "linear")
    assert path == tmp_path / "probe" / "linear" / "report.html" and path.stat().st_size < 3e6
    text = path.read_text()
    found = Balanced(text)
    sections = [link.removeprefix("#") for link in found.links]
    assert sections == [
        "profile", "protocols", "readers", "confusion", "neighbours", "map", "cka", "measures", "samples", "manifest"
    ]  # fmt: skip
    assert set(sections) <= set(found.ids) and len(found.ids) == len(set(found.ids))
    assert found.images and all(image["alt"] and image["src"].startswith("data:image/") for image in found.images)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text) and "url(http" not in text and "@import" not in text


def test_the_page_states_what_was_measured(tmp_path):
    results = make_results()
    shown = " ".join(Balanced(page(results, {}, {}, tmp_path)).text).replace("\xa0", " ")
    assert f"{100 * results['test_accuracy']:.2f} %" in shown and "81.00 %" in shown
    assert f"{100 * (results['test_accuracy'] - 0.81):+.2f} points" in shown
    assert results["manifest"]["commit"] in shown and results["manifest"]["config_hash"] in shown
    assert "class Shirt has 12 images" in shown and "--config.name=linear" in shown
    for point in results["profile"][::17]:
        assert f"{100 * point['validation_accuracy']:.2f}" in shown
    assert all(feature in shown for feature in FEATURES)


def test_readers_of_a_trajectory_are_set_against_the_best_single_level(tmp_path):
    results = make_results(protocols=["ridge", *TRAJECTORY])
    section = page(results, {}, {}, tmp_path).partition('id="readers"')[2].partition("</section>")[0]
    single, mean = (results["protocols"][f"trajectory_{name}"] for name in ("single", "mean"))
    assert f"t={single['selected']['t']:g}" in section and "Readers of z<" in section
    assert f"k={mean['selected']['feature'].removeprefix('z@')}" in section
    assert f"{100 * (mean['test_accuracy'] - single['test_accuracy']):+.2f}" in section
    alone = make_results(protocols=["ridge", "trajectory_single"])
    assert 'id="readers"' not in page(alone, {}, {}, tmp_path)


def test_names_are_escaped_everywhere(tmp_path):
    bad = """<script>alert("1")</script>&'"""
    classes = [bad, *NAMES[1:]]
    results = make_results(name=bad, dataset=bad, classes=classes)
    results["warnings"], results["name"] = [bad], bad
    for points in (results["profile"], results["measures"]["profile"]):
        for point in points:
            point["feature"] = bad if point["feature"] == "z" else point["feature"]
    results["measures"]["cka"]["keys"] = [[bad, t] for _, t in results["measures"]["cka"]["keys"]]
    results["selected"] = results["selected"] | {"feature": bad}
    ridge = results["protocols"]["ridge"]
    results["protocols"] = {bad: ridge, f"trajectory_{bad}": ridge | {"settings": {"feature": bad}}}
    made = made_atlas()
    made["map/feature"] = made["strips/feature"] = np.asarray(bad)
    text = page(results, made, {}, tmp_path)
    Balanced(text)
    assert "<script>alert" not in text and bad in " ".join(Balanced(text).text)
    assert len(re.findall("<script", text)) == 1


def test_a_choice_of_several_levels_is_told_and_drawn_without_a_place_on_the_axis(tmp_path):
    results = joint_results(protocols=["ridge"])
    assert re.search(r"\(feature=z@levels, 3 levels side by side; pixels 0\.81", last_line(results))
    lines = table(results).splitlines()
    assert any(re.fullmatch(r"  z@levels +0\.9700 +", line) for line in lines)
    assert any(line.endswith("z@levels, 3 levels side by side, strength=0.1") for line in lines)
    draw_profile(results, tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"
    text = page(results, made_atlas(), {}, tmp_path)
    Balanced(text)
    assert "3 levels side by side, strength 0.1" in text and 'data-line="z@levels"' not in text
    assert "z@levels</text>" in text  # a line across the chart, as the pixels' is


def test_it_is_said_that_nearest_neighbours_read_standardised_pixels(tmp_path):
    results = make_results()
    before = page(results, {}, {}, tmp_path)
    results["baseline_choices"]["pixels_knn"]["feature"] = "pixels_standardised"
    (line,) = (line for line in table(results).splitlines() if line.endswith("  standardised"))
    assert line.startswith("  pixels_knn")
    assert page(results, {}, {}, tmp_path).count(" <small>standardised</small>") == 1 > before.count("standardised")


def test_a_dataset_without_labels_still_has_measures_a_map_and_its_manifest(tmp_path):
    text = page(without_labels(), made_atlas(labelled=False), {}, tmp_path)
    links = Balanced(text).links
    assert links == ["#neighbours", "#map", "#cka", "#measures", "#manifest"]
    assert "no labels" in text and "retrieval mAP" not in text


def test_every_part_may_be_null_or_missing(tmp_path):
    full = make_results()
    for name in full.keys() - {"manifest", "dataset", "name", "checkpoint_step"}:
        Balanced(page(full | {name: None}, {}, {}, tmp_path))
    bare = {name: full[name] for name in ("manifest", "dataset", "name", "checkpoint_step")}
    assert Balanced(page(bare, {}, {}, tmp_path)).links == ["#manifest"]
    holes = json.loads(json.dumps(full))
    holes["measures"]["profile"][3]["rankme"] = None
    holes["measures"]["profile"][4]["rankme"] = float("nan")
    Balanced(page(holes, {}, {}, tmp_path))


@pytest.mark.parametrize("number", [2, 10, 40, 41, 1000])
def test_confusion_is_a_matrix_of_up_to_40_classes_and_pairs_beyond(tmp_path, number):
    results = make_results(classes=[f"class_{i}" for i in range(number)])
    text = page(results, {}, {}, tmp_path)
    Balanced(text)
    assert ('class="confusion"' in text) == (number <= 40) and ("Hardest classes" in text) == (number > 40)
    assert len(text) < 3e6
    counts = np.asarray(results["confusion"])
    wrong = counts - np.diag(np.diag(counts))
    i, j = np.unravel_index(np.argmax(wrong), wrong.shape)
    assert f'<th scope="row">class_{i}</th><td>class_{j}</td><td class="number">{wrong[i, j]}</td>' in text


def test_the_confusion_of_many_classes_is_read_from_the_atlas_to_the_same_page(tmp_path):
    results = make_results(classes=[f"class_{i}" for i in range(150)])
    counts = np.asarray(results["confusion"])
    sparse = np.column_stack([*np.nonzero(counts), counts[np.nonzero(counts)]])
    without = results | {"confusion": None}
    assert page(without, {"confusion": sparse}, {}, tmp_path) == page(results, {}, {}, tmp_path)
    assert 'id="confusion"' not in page(without, {}, {}, tmp_path)


def test_a_deep_network_under_many_protocols_still_makes_a_small_page(tmp_path):
    results = make_results()
    features = ["z", *(f"encoder_{i}" for i in range(1, 13)), *(f"denoiser_{i}" for i in range(1, 29))]
    points = [p for p in results["profile"] if p["feature"] == "z" and p["protocol"] == "ridge"]
    results["profile"] = [p | {"feature": f, "protocol": str(n)} for n in range(10) for f in features for p in points]
    keys = [[f, p["t"]] for f in features for p in points]
    results["measures"]["cka"] = {
        "keys": keys,
        "matrix": np.random.default_rng(0).uniform(size=[len(keys)] * 2).tolist(),
    }
    assert len(page(results, {}, {}, tmp_path)) < 3e6


def test_the_worst_memorisation_sign_is_a_warning(tmp_path):
    results = make_results()
    results["measures"]["memorisation"] = {"falls_steadily": True, "feature": "z", "peak_t": 0.0}
    assert "falls steadily" in page(results, {}, {}, tmp_path).split("<nav")[0]


def test_similarities_that_are_not_known_are_grey_and_not_zero():
    import base64
    import io

    from PIL import Image

    drawn = charts.matrix(np.array([[1.0, np.nan], [0.0, 1.0]]), [("z", 0.0), ("z", 0.5)], "similarity")
    image = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)"', drawn)[1])))
    assert image.getpixel((1, 0)) == (140, 140, 140) and image.getpixel((0, 1)) == (68, 1, 84)  # viridis at 0
    assert json.loads(html.unescape(re.search('data-matrix="([^"]*)"', drawn)[1]))["hex"] == "feff00fe"


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.871, 0.8713), (-3.4, 12.0), (5.0, 5.0), (0.0, 0.0), (1e-9, 3e4)])
def test_ticks_are_few_round_and_cover_the_values(low, high):
    ticks = charts.nice_ticks(low, high, 6)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_deeper_layers_stand_out_and_z_is_the_colour_of_text():
    styles = charts.styles([*FEATURES, "denoiser_28"])
    light = [sum(bytes.fromhex(styles[f"encoder_{i}"].light[1:])) for i in (1, 2, 3)]
    dark = [sum(bytes.fromhex(styles[f"encoder_{i}"].dark[1:])) for i in (1, 2, 3)]
    assert light == sorted(light, reverse=True) and dark == sorted(dark)
    assert not styles["encoder_1"].dashed and styles["denoiser_28"].dashed


def browse(path, width, height, folder, *flags):
    """What Chromium wrote to its log, after showing the page in a window of that size."""
    process = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000",
         "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder}", f"--window-size={width},{height}",
         *flags, path.as_uri()],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process


# Run inside the page, which is framed: Chromium's own window is 500 pixels wide or more.
PROBE = """<script>
const found = {failed: []};
addEventListener("error", (event) => found.failed.push(event.message));
addEventListener("securitypolicyviolation", (event) => found.failed.push(event.blockedURI));
addEventListener("load", () => {
  found.width = innerWidth;
  found.ready = document.documentElement.dataset.ready;
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.requests = performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith("data:"));
  const chart = [...document.querySelectorAll(".chart svg")].find((svg) => svg.getBoundingClientRect().width);
  if (chart) {
    chart.scrollIntoView();
    const box = chart.getBoundingClientRect();
    const at = { clientX: box.left + box.width / 2, clientY: box.top + 60, bubbles: true };
    chart.dispatchEvent(new PointerEvent("pointermove", at));
    const tip = document.querySelector(".tip");
    found.tip = tip.innerText;
    found.inside = tip.getBoundingClientRect().left >= 0 && tip.getBoundingClientRect().right <= innerWidth;
    const panels = () => [...document.querySelectorAll(".panel")].map((panel) => panel.offsetHeight > 0);
    found.before = panels();
    document.querySelectorAll(".tabs > label")[1].click();
    found.after = panels();
    document.querySelector("button[data-line]").click();
    found.off = document.querySelectorAll("g.off").length;
  }
  parent.postMessage(found, "*");
});
</script>"""
FRAME = """<!doctype html><script>
addEventListener("message", (event) => { document.documentElement.dataset.found = JSON.stringify(event.data); });
</script><iframe src="%s" width="%d" height="%d" style="border:0"></iframe>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH")
@pytest.mark.parametrize("kind", ["full", "unlabelled", "many classes", "comparison"])
@pytest.mark.parametrize("width, height", [(360, 800), (1600, 1000)])
def test_a_browser_shows_the_page_without_errors_network_or_sideways_scroll(tmp_path, pictures, width, height, kind):
    if kind == "full":
        path = write_page(make_results(), made_atlas(side=64), pictures, tmp_path)
    elif kind == "unlabelled":
        path = write_page(without_labels(), made_atlas(labelled=False), {}, tmp_path)
    elif kind == "comparison":
        made = [make_results(f"a_long_name_of_a_run_{i}", seed) for i in range(6) for seed in (0, 1)]
        places = [write_run(tmp_path / str(place), results) for place, results in enumerate(made)]
        path = report.write(*compare(read_runs(places, None)), tmp_path)[-1]
    else:
        names = [f"a_class_with_a_very_long_name_{i}" for i in range(1000)]
        path = write_page(make_results(name="a_long_name" * 12, classes=names), None, {}, tmp_path)
    log = browse(path, width, height, tmp_path / "a", f"--screenshot={tmp_path / 'shown.png'}").stderr
    assert "CONSOLE" not in log, log
    from PIL import Image

    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.size == (width, height) and len(shown.convert("RGB").getcolors(1 << 24)) > 50

    watched, frame = tmp_path / "watched.html", tmp_path / "frame.html"
    watched.write_text(path.read_text().replace("<head>", "<head>" + PROBE, 1))
    frame.write_text(FRAME % (watched.as_uri(), width, height))
    process = browse(frame, max(width, 600), height + 100, tmp_path / "b", "--dump-dom")
    assert "CONSOLE" not in process.stderr, process.stderr
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', process.stdout)[1]))
    assert found["width"] == width and found["ready"] == "yes" and found["failed"] == found["requests"] == []
    assert found["overflow"] == 0
    if kind != "comparison":
        assert found["tip"].startswith("t = ") and found["inside"] and found["off"] > 0
        assert found["before"] != found["after"] and sum(found["before"]) == sum(found["after"])
