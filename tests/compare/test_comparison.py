"""Statistics against SciPy and closed forms; what stands in one row, what in one column, and what is marked best."""

import csv
import io
import itertools
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import refused, run_program
from matplotlib.axes import Axes
from probed import make_results, write_run

from ddm_embed.compare import report, significance
from ddm_embed.compare.chart import draw
from ddm_embed.compare.runs import read_runs
from ddm_embed.compare.table import compare
from ddm_embed.drawing import png
from ddm_embed.errors import UserError


def runs(folder, *made, **options):
    return [write_run(folder / f"run_{place}", results, **options) for place, results in enumerate(made)]


def tables(paths, probe=None):
    return compare(read_runs(paths, probe))[0]


def set_accuracy(results, protocol, accuracy):
    results["protocols"][protocol]["test_accuracy"] = accuracy
    return results


def test_the_standard_error_is_the_sample_deviation_over_root_n_and_none_for_one():
    mean, error = significance.mean_and_error([0.9, 0.94, 0.95])
    assert mean == pytest.approx(0.93)
    assert error == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.02**2) / 2) / math.sqrt(3))
    assert significance.mean_and_error([0.9]) == (0.9, None)


def test_the_paired_test_is_students_on_the_differences():
    from scipy.stats import ttest_1samp

    first, second = [0.91, 0.935, 0.94, 0.92], [0.90, 0.91, 0.935, 0.93]
    found = significance.paired(first, second)
    differences = np.subtract(first, second)
    assert found.p == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert found.difference == pytest.approx(0.0075) and found.number == 4
    assert found.error == pytest.approx(np.std(differences, ddof=1) / 2)
    # of two differences, t has one degree of freedom and is Cauchy's
    d = np.array([0.01, 0.03])
    t = d.mean() / (d.std(ddof=1) / math.sqrt(2))
    assert significance.paired([0.5 + d[0], 0.5 + d[1]], [0.5, 0.5]).p == pytest.approx(1 - 2 * math.atan(t) / math.pi)


def test_the_paired_test_claims_nothing_from_equal_differences_or_one_seed():
    assert significance.paired([0.9], [0.8]) is None
    assert significance.paired([0.9, 0.8], [0.9, 0.8]).p == 1
    assert significance.paired([0.75, 0.5], [0.5, 0.25]).p is None
    assert significance.paired([0.912, 0.914], [0.902, 0.904]).p is None  # equal but for rounding


@pytest.mark.parametrize("only_first, only_second", [(0, 0), (5, 5), (9, 2), (0, 7), (30, 55)])
def test_mcnemars_exact_p_is_the_binomial_tail_twice(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True] * 11 + [False] * 6)
    second = np.array([False] * only_first + [True] * only_second + [True] * 11 + [False] * 6)
    found = significance.mcnemar(first, second)
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(min(1, 2 * tail))


def test_holms_correction_steps_down_from_the_smallest():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert significance.holm([0.5, 0.6]) == pytest.approx([1, 1]) and significance.holm([]) == []


def test_holms_correction_is_the_closed_test_of_bonferroni():
    p = np.random.default_rng(0).uniform(0, 0.3, 6)
    sets = [c for n in range(1, 7) for c in itertools.combinations(range(6), n)]
    closed = [max(min(1, len(c) * min(p[list(c)])) for c in sets if i in c) for i in range(6)]
    assert significance.holm(list(p)) == pytest.approx(closed)


def test_runs_that_differ_in_their_seeds_alone_are_one_row(tmp_path):
    made = [make_results("vdrl", seed, 0.9) for seed in (0, 1, 2)] + [make_results("other", 0, 0.85)]
    (table,) = tables(runs(tmp_path, *made))
    assert [row.name for row in table.rows] == ["vdrl", "other", "pixels", "pca", "random_relu"]
    values = [m.accuracy for m in table.rows[0].cells["ridge"]]
    assert values == [results["protocols"]["ridge"]["test_accuracy"] for results in made[:3]]
    text = report.cell(table.rows[0], "ridge")
    assert text == f"{np.mean(values):.4f} ± {np.std(values, ddof=1) / math.sqrt(3):.4f} (3)"
    assert re.fullmatch(r"0\.\d{4} ± - \(1\)", report.cell(table.rows[1], "ridge"))


def test_rows_of_one_name_are_told_apart_by_directory_step_or_hash(tmp_path):
    made = [make_results("vdrl", 0, config_hash="a" * 64), make_results("vdrl", 0, config_hash="b" * 64)]
    assert [row.name for row in tables(runs(tmp_path, *made))[0].rows[:2]] == ["run_0", "run_1"]
    later = [make_results("vdrl", 0), make_results("vdrl", 1, checkpoint_step=500)]
    (table,) = tables(runs(tmp_path / "later", *later))
    assert len([row for row in table.rows if not row.baseline]) == 2
    named = [make_results(f"vdrl_seed{seed}", seed, config_hash="c" * 64) for seed in (0, 1)]
    assert tables(runs(tmp_path / "named", *named))[0].rows[0].name == "vdrl"


@pytest.mark.parametrize(
    "field, value",
    [("training_images", 500), ("test_images", 9), ("parameters", "raw"), ("noise_draws", 1), ("times", [0.1, 0.2])],
)
def test_numbers_of_another_protocol_have_a_column_of_their_own_that_says_how(tmp_path, field, value):
    made = [make_results("a", 0), make_results("a", 1), make_results("b", 0, **{field: value})]
    (table,) = tables(runs(tmp_path, *made, predictions=False))
    assert [c.name for c in table.columns][:4] == ["ridge", "ridge (2)", "knn", "knn (2)"]
    cells = {row.name: set(row.cells) for row in table.rows}
    assert "ridge (2)" not in cells["a"] and "ridge" not in cells["b"] and "ridge (2)" in cells["b"]
    usual = made[0]["protocol"][field]
    assert table.columns[1].difference == f"{field} is {json.dumps(value)}, not {json.dumps(usual)}"
    assert not any({pair.first, pair.second} == {"a", "b"} for pair in table.pairs)
    assert f"{field} is {json.dumps(value)}" in report.text([table], [])


def test_settings_of_a_head_split_its_column_alone(tmp_path):
    other = make_results("b", 0)
    other["protocols"]["knn"]["settings"]["solver"]["name"] = "approximate"
    (table,) = tables(runs(tmp_path, make_results("a", 0), other))
    assert [c.name for c in table.columns] == ["ridge", "knn", "knn (2)", "logistic", "ddae", "fewshot_5"]
    assert table.columns[2].difference == 'settings.solver.name is "approximate", not "exact"'


def test_the_encoders_features_have_a_column_beside_all_features(tmp_path):
    made = [make_results("a", seed, protocols=["ridge", "knn"]) for seed in (0, 1)] + [make_results("old", 0)]
    chosen = {"feature": "encoder_2", "t": 0.1, "hyper": 0.1, "validation_accuracy": 0.8}
    for accuracy, results in zip((0.7, 0.72), made, strict=False):
        results["protocols"]["ridge"]["encoder"] = {"selected": chosen, "test_accuracy": accuracy}
    (table,) = tables(runs(tmp_path, *made))
    rows = {row.name: row.cells for row in table.rows}
    assert [m.accuracy for m in rows["a"]["ridge, encoder"]] == [0.7, 0.72]
    assert rows["a"]["ridge, encoder"][0].selected == chosen and "ridge, encoder" in {c.name for c in table.columns}
    assert "ridge, encoder" not in rows["old"] and "knn, encoder" not in rows["a"]
    assert rows["pixels"]["ridge, encoder"][0].accuracy == rows["pixels"]["ridge"][0].accuracy


def test_datasets_have_tables_of_their_own(tmp_path):
    found = tables(runs(tmp_path, make_results("a", 0), make_results("b", 0, dataset="digits")))
    assert [table.dataset for table in found] == ["fashion_mnist", "digits"]
    assert [row.name for row in found[1].rows] == ["b", "pixels", "pca", "random_relu"]


def test_baselines_are_rows_once_and_say_where_runs_disagree(tmp_path):
    second = make_results("b", 0)
    second["baselines"]["pixels_knn"] = 0.5
    (table,) = tables(runs(tmp_path, make_results("a", 0), second))
    pixels = next(row for row in table.rows if row.name == "pixels")
    assert report.cell(pixels, "ridge") == "0.8100" and len(pixels.cells["knn"]) == 1
    assert any("pixels under knn was measured as 0.5000 and 0.7900" in note for note in table.notes)


def test_both_tests_are_made_over_what_is_shared_and_corrected_over_the_table(tmp_path):
    from scipy.stats import ttest_rel

    made = [
        make_results(n, s, a, protocols=["ridge"])
        for n, a, seeds in [("a", 0.9, 5), ("b", 0.8, 4)]
        for s in range(seeds)
    ]
    (table,) = tables(runs(tmp_path, *made))
    pair = next(pair for pair in table.pairs if {pair.first, pair.second} == {"a", "b"})
    scores = [results["test_accuracy"] for results in made]
    assert pair.seeds_test.number == 4 and [seed for seed, _, _ in pair.image_tests] == [0, 1, 2, 3]
    assert pair.seeds_test.p == pytest.approx(ttest_rel(scores[:4], scores[5:]).pvalue)
    by_seeds = [p for p in table.pairs if p.seeds_test and p.seeds_test.p is not None]
    assert [p.seeds_p for p in by_seeds] == significance.holm([p.seeds_test.p for p in by_seeds])
    images = [(test.p, p) for one in table.pairs for _, test, p in one.image_tests]
    assert [p for _, p in images] == significance.holm([p for p, _ in images])
    assert {(row, "ridge") for row in ("a",)} == table.best


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_equal_arms_one_is_excluded_wrongly_in_at_most_one_table_of_twenty(seeds):
    """Four arms whose accuracies vary alike from seed to seed."""
    rng, tables, wrong = np.random.default_rng(0), 300, 0

    def row(name):
        cell = []
        for seed in range(seeds):
            accuracy = float(rng.normal(0.8, 0.03))
            cell.append(SimpleNamespace(seed=seed, probe_seed=0, accuracy=accuracy, right=None, predicted=None))
        return significance.Row(name, False, {"ridge": cell})

    for _ in range(tables):
        rows = [row(name) for name in "abcd"]
        pairs, _ = significance.pair_up(rows, ["ridge"])
        best, notes = significance.find_best(rows, ["ridge"], pairs)
        wrong += len(best) < 4 and not notes
    assert wrong / tables <= 0.05


def test_with_one_seed_nothing_is_best_whatever_the_images_say(tmp_path):
    made = [make_results(n, 0, a, protocols=["ridge"]) for n, a in (("a", 0.9), ("b", 0.5))]
    (table,) = tables(runs(tmp_path, *made))
    assert table.best == set() and any("share fewer than two training seeds" in note for note in table.notes)


@pytest.mark.parametrize("collapsed", [(0, 1, 2), (1,)])
def test_a_row_with_a_collapsed_run_is_listed_and_never_ranked(tmp_path, collapsed):
    made = [make_results(n, s, a, protocols=["ridge"]) for n, a in (("a", 0.9), ("b", 0.86)) for s in range(3)]
    for results in (results for results in made[:3] if results["seeds"]["train"] in collapsed):
        results["warnings"].append("z has collapsed: its RankMe is 1.10 at most, at every noise level")
    found = tables(runs(tmp_path, *made))
    assert [row.name for row in found[0].rows][:2] == ["a", "b"] and len(found[0].rows[0].cells["ridge"]) == 3
    assert ("b", "ridge") in found[0].best and "a" not in {name for name, _ in found[0].best}
    assert found[0].pairs and not any("a" in (pair.first, pair.second) for pair in found[0].pairs)
    seeds = ", ".join(map(str, collapsed))
    note = f"a is not ranked or tested: its codes have collapsed (seed {seeds})"
    page = report.html(found, [], b"")
    assert all(note in text for text in (report.text(found, []), page, report.markdown(found, []).replace("\\", "")))


def test_a_table_whose_every_run_has_collapsed_ranks_baselines_alone(tmp_path):
    results = make_results("a", protocols=["ridge", "knn"])
    results["warnings"].append("z has collapsed: its RankMe is 1.10 at most, at every noise level")
    (table,) = tables(runs(tmp_path, results))
    assert {first for first, _ in table.best} <= {"pixels", "pca", "random_relu"} and "a  " in report.text([table], [])


def test_steps_and_operations_of_training_stand_beside_the_accuracies(tmp_path):
    older = make_results("older", checkpoint_step=500)
    del older["train_flops"]
    (table,) = tables(runs(tmp_path, make_results("a", checkpoint_step=1000), older))
    (head, _, *lines) = report.in_short(table)[1].splitlines()
    assert head.endswith("| steps | training FLOPs |")
    ends = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[-2:] for line in lines}
    assert ends["a"] == ["1000", "1.5e+12 |"] and ends["older"] == ["500", " |"] and ends["pixels"] == ["", " |"]
    text = report.text([table], [])
    assert re.search(r"training FLOPs\na .* 1000 +1\.5e\+12\n", text)
    assert "1.5e+12</td>" in report.html([table], [], b"")


def test_what_is_not_significantly_worse_is_marked_too(tmp_path):
    made = [set_accuracy(make_results(n, s, protocols=["ridge"]), "ridge", a + 0.0002 * (s == 1) * (n == "a"))
            for n, a in (("a", 0.9), ("b", 0.8999), ("c", 0.7)) for s in range(3)]  # fmt: skip
    (table,) = tables(runs(tmp_path, *made))
    assert table.best == {("a", "ridge"), ("b", "ridge")}


def test_nothing_is_marked_best_where_no_test_is_possible_and_it_says_why(tmp_path):
    made = [make_results("a", 0, 0.9, protocols=["ridge"]), make_results("b", 0, 0.8, protocols=["ridge"])]
    (table,) = tables(runs(tmp_path, *made, predictions=False))
    assert table.best == set() and table.pairs == []
    assert any("nothing is marked best, since a cannot be tested against b" in note for note in table.notes)


def test_predictions_on_other_test_images_are_not_paired(tmp_path):
    first, second = runs(tmp_path, *(make_results(n, 0, protocols=["ridge"]) for n in "ab"))
    kept = second / "probe" / "linear" / "predictions.npz"
    arrays = dict(np.load(kept))
    arrays = {name: array[:, ::-1] for name, array in arrays.items()}
    np.savez(kept, **arrays)
    (table,) = tables([first, second])
    assert not any({pair.first, pair.second} == {"a", "b"} for pair in table.pairs)
    assert any("not of the same test images" in note for note in table.notes)


def test_one_seed_of_one_config_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="one sample, not two"):
        tables(runs(tmp_path, make_results("a", 0), make_results("a", 0)))
    (run,) = runs(tmp_path / "more", make_results("a", 0))
    write_run(run, make_results("a", 0), probe="again")
    with pytest.raises(UserError, match="--probe"):
        tables([run])
    assert len(tables([run], "again")) == 1 and len(tables([run, run], "again")) == 1


def test_rows_of_several_commits_devices_or_with_changes_are_warned_of(tmp_path):
    made = [make_results("a", 0), make_results("b", 0, commit="f" * 40, device="NVIDIA H200 x 1", dirty=True)]
    warnings = " ".join(tables(runs(tmp_path, *made))[0].warnings)
    assert (
        "commit: 7799bd761d (a); ffffffffff (b)" in warnings and "device: cpu x 1 (a); NVIDIA H200 x 1 (b)" in warnings
    )
    assert "in no commit: b" in warnings and "versions" not in warnings
    assert tables(runs(tmp_path / "same", make_results("a", 0), make_results("b", 0)))[0].warnings == []


def test_what_cannot_be_read_is_named_with_the_mend_all_at_once(tmp_path):
    (good,) = runs(tmp_path, make_results("a", 0))
    corrupt, old, bare = (tmp_path / name for name in ("corrupt", "old", "bare"))
    write_run(corrupt, {}, predictions=False)
    (corrupt / "probe" / "linear" / "results.json").write_text('{"dataset": ')
    write_run(
        old, {name: value for name, value in make_results("a", 1).items() if name != "manifest"}, predictions=False
    )
    bare.mkdir()
    with pytest.raises(UserError) as caught:
        read_runs([good, corrupt, old, bare, tmp_path / "none"], None)
    message = str(caught.value)
    assert f"{corrupt}/probe/linear/results.json: not readable as JSON" in message
    assert f"{old}/probe/linear/results.json: of an older version, without manifest" in message
    assert f"run the probe first: python -m ddm_embed.probe --workdir {bare}" in message
    assert f"{tmp_path / 'none'}: no such run directory" in message and str(good) not in message
    (good / "probe" / "linear" / "predictions.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"predictions\.npz: not readable"):
        read_runs([good], None)
    with pytest.raises(UserError, match=r"other/results\.json: missing.*--config\.name=other"):
        read_runs([good], "other")


def test_a_run_without_labels_is_named_as_left_out(tmp_path):
    unlabelled = make_results("b", 0, dataset="folder") | {"protocols": {}, "baselines": {}}
    paths = runs(tmp_path, make_results("a", 0), unlabelled, predictions=False)
    found, left_out = compare(read_runs(paths, None))
    assert len(found) == 1 and len(left_out) == 1 and "no labels" in left_out[0] and str(paths[1]) in left_out[0]
    assert left_out[0] in report.text(found, left_out)
    with pytest.raises(UserError, match="no labels"):
        compare(read_runs(paths[1:], None))


def test_csv_and_markdown_hold_every_number_with_its_manifest(tmp_path):
    made = [make_results("a|b", s, 0.9) for s in (0, 1)] + [make_results("<i>*c*", 0, 0.8, dirty=True)]
    found = tables(runs(tmp_path, *made))
    lines = list(csv.DictReader(io.StringIO(report.to_csv(found))))
    assert len(lines) == 5 * 2 + 2 * 3
    line = next(one for one in lines if one["row"] == "a|b" and one["protocol"] == "knn")
    values = [results["protocols"]["knn"]["test_accuracy"] for results in made[:2]]
    assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-6) and line["n"] == "2"
    assert [float(v) for v in line["test_accuracy"].split(";")] == pytest.approx(values, abs=1e-6)
    assert line["train_seed"] == "0;1" and line["config_hash"] == made[0]["manifest"]["config_hash"][:12]
    assert line["commit"] == "7799bd761d" and line["device"] == "cpu x 1" and "jax 0.10.2" in line["versions"]
    assert json.loads(line["definition"])["training_images"] == 60000 and line["checkpoint_step"] == "2000"
    assert line["train_flops"] == "3e+12"
    assert next(one for one in lines if one["row"] == "pixels")["train_flops"] == ""  # nothing was trained
    alone = next(one for one in lines if one["row"] == "<i>*c*" and one["protocol"] == "ridge")
    assert alone["standard_error"] == "" and alone["commit"].endswith("+ changes")

    text = report.markdown(found, ["left <b>"])
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block}
        assert len(widths) == 1, block
    numbers = blocks[-1]
    assert len(numbers) == 2 + 5 * 3 + 2 * 3 and all("7799bd761d" in line for line in numbers[2:])
    assert r"\<i\>\*c\*" in text and r"a\|b" in text and "<b>" not in text


def test_all_files_are_written_and_names_are_escaped_in_the_page(tmp_path):
    bad = "<script>alert(1)</script>"
    made = [make_results(bad, seed, 0.9) for seed in (0, 1)] + [make_results(f"run {i}", 0, 0.8) for i in range(11)]
    found = tables(runs(tmp_path, *made))
    paths = report.write(found, [bad], tmp_path / "out")
    assert [path.name for path in paths] == ["compare.md", "compare.csv", "compare.png", "compare.html"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert bad not in page and "&lt;script&gt;alert(1)" in page and "data:image/png;base64," in page
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_prints_the_table_and_writes_the_files(tmp_path):
    paths = runs(tmp_path, *(make_results(n, seed, a) for n, a in (("a", 0.9), ("b", 0.6)) for seed in range(4)))
    process = run_program("ddm_embed.compare", *paths, "--out", tmp_path / "out", "--probe", "linear")
    assert process.returncode == 0, process.stderr
    assert "(4) *" in process.stdout and str(tmp_path / "out" / "compare.html") in process.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "no run is given"),
        (("none",), "none: no such run directory"),
        (("none", "--probes=x"), "Unknown command line flag 'probes'"),
        (("none", "--workdir=x"), "without a flag"),
    ],
)
def test_the_program_fails_with_one_line(tmp_path, arguments, said):
    process = run_program("ddm_embed.compare", *arguments, "--out", tmp_path / "out")
    assert said in refused(process)


def test_a_run_whose_name_begins_with_an_underscore_or_holds_dollars_is_in_the_picture(tmp_path):
    figure = draw(tables(runs(tmp_path, make_results("_hidden"), make_results("$x^{$"))))
    assert png(figure).startswith(b"\x89PNG")
    legends = [axes.get_legend() for axes in figure.findobj(Axes) if axes.get_legend()]
    shown = [text.get_text().strip() for legend in legends for text in legend.texts]
    assert [name.partition(" (")[0] for name in shown] == ["_hidden", "$x^{$"]
