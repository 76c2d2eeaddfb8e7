"""Damage of any kind to a JSON or npz file that a run, an export or an embedding holds: what is read is as it was
written, or there is one line; never a traceback, a hang or a changed number."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import ROOT, tiny_config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from probed import FEATURES, make_predictions, make_results

from ddm_embed import config as config_lib
from ddm_embed.compare import report
from ddm_embed.compare.runs import measures, read_runs
from ddm_embed.compare.table import compare
from ddm_embed.data.sequences import Scale
from ddm_embed.data.types import Source, Split
from ddm_embed.embed import layout, making
from ddm_embed.errors import UserError
from ddm_embed.export.card import best_level, own_and_baselines, read_measured
from ddm_embed.features.choice import choose
from ddm_embed.features.exported import open_export, read_manifest
from ddm_embed.runs import checkpoint
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.outcome import ProbeFolder
from ddm_embed.validate import validate

SECONDS = 5  # a case, at most

PLAN = {
    "format": 1, "fingerprint": "ab" * 32, "feature": "z", "t": [0.0, 0.3], "images": "/photos",
    "files": [[f"{i}.png", 1000 + i, 100] for i in range(9)], "labels": ["a"] * 9, "chunk": 4,
}  # fmt: skip
METADATA = {
    "format": 1, "feature": "z", "t": [0.0, 0.3], "chosen_by": "nobody", "run": "runs/a", "step": 20,
    "fingerprint": "ab" * 32, "created": "2026-11-21", "images": "/photos", "number": 3, "dim": 5,
    "bad": [["d.png", "cut"]], "plan": "cd" * 32, "ddm_embed": "0.1.0",
}  # fmt: skip
EMBEDDING = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)


class Kind(NamedTuple):
    """A file, and what reads it in full: a value that can be compared. sealed: whether it tells any change of what it
    says; else it is of a version that did not, and what is read must be of the form that the programs need."""

    file: Path
    read: Callable[[], Any]
    sealed: bool = True


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Every file by name."""
    place = tmp_path_factory.mktemp("damage")
    with tarfile.open(ROOT / "tests" / "old" / "old_files.tar.xz") as archive:
        archive.extractall(place, filter="data")
    directory, export, old = RunDirectory(place / "new"), place / "export", RunDirectory(place / "run")
    scale = Scale(np.float32([0.5, 2.0]), np.float32([1.5, 3.0]))
    directory.path.mkdir()
    directory.prepare(tiny_config())
    directory.check_data(Source("arrays:x", Split(np.zeros((6, 1, 16, 2), np.float32), None), None, None, scale))
    directory.note_classes((3, 7, 40))
    results = make_results(protocols=("ridge", "knn"))
    probe, plain = ProbeFolder(directory.path / "probe" / "linear"), ProbeFolder(place / "plain" / "probe" / "linear")
    for folder in (probe, plain):
        folder.write(results, make_predictions(results, images=50), {})
    plain_results = plain.path / "results.json"
    plain_results.write_text(json.dumps({k: v for k, v in results.items() if k not in ("sha256", "predictions")}))
    out = place / "out.npz"
    with making.opened(out, PLAN) as (parts, _):
        making.write_part(parts, 1, making.Part(EMBEDDING, np.array([4, 5, 7]), [(6, "cut")]))
    layout.write(out, ["a", "b", "c"], ["", "x", "x"], iter([EMBEDDING]), METADATA)

    def read_plan():
        with making.opened(out, PLAN) as (_, found):
            return {name: found[name] for name in PLAN}

    def read_old_config():
        validate(config := old.read_config())
        return config_lib.flatten(config)

    networks = SimpleNamespace(features=FEATURES, denoiser=None)

    def compared(run):
        results = read_runs([run], None)
        tables, left_out = compare(results)
        told: tuple = report.markdown(tables, left_out), report.to_csv(tables), report.html(tables, left_out, b"")
        chosen, measured = choose(run, networks, False), read_measured(run)
        told += chosen, best_level(measured, "z"), own_and_baselines(measured.results[0]), measured.left_out
        return told[:5], [(m.accuracy, m.right, m.predicted) for m in measures(results[0])]

    saved = place / "run" / "checkpoints" / "20"
    return {
        "config": Kind(directory.path / "config.json", lambda: config_lib.flatten(directory.read_config())),
        "data": Kind(directory.path / "data.json", directory.read_data),
        "versions": Kind(directory.path / "versions.json", directory.read_versions, False),
        "results": Kind(probe.path / "results.json", lambda: compared(directory.path)),
        "predictions": Kind(probe.path / "predictions.npz", lambda: compared(directory.path)),
        "checkpoint digest": Kind(saved / "digest.json", lambda: checkpoint.damage(saved)),
        "export": Kind(export / "export.json", lambda: read_manifest(export)),
        "export config": Kind(export / "config.json", lambda: open_export(export).place),
        "plan": Kind(parts / "plan.json", read_plan),
        "part": Kind(parts / "00000001.npz", lambda: making.read_part(parts, 1, range(4, 8), (2, 5))),
        "embeddings": Kind(out, lambda: layout.read(out)),
        "classes": Kind(directory.path / "classes.json", directory.read_classes, False),
        "old config": Kind(old.path / "config.json", read_old_config, False),
        "old data": Kind(old.path / "data.json", old.read_data, False),
        "old results": Kind(plain_results, lambda: compared(place / "plain"), False),
        "old embeddings": Kind(place / "embeddings.npz", lambda: layout.read(place / "embeddings.npz")),
    }  # fmt: skip


KINDS = (
    "config", "data", "versions", "results", "predictions", "checkpoint digest", "export", "export config", "plan",
    "part", "embeddings", "classes", "old config", "old data", "old results", "old embeddings",
)  # fmt: skip

ODD = [
    None, True, -1, 0, 2**53, 10**30, 10**400, 1e308, float("inf"), float("nan"), 0.5, "", "x", "$x^{$", "\udcff", [],
    {}, [[]], [None], {"": None}, [1, "a"],
]  # fmt: skip


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Where something stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [place for key, item in list(inner)[:40] for place in places(item, (*at, key))]


def mutated(data: st.DataObject, text: bytes) -> bytes:
    """A JSON text of which a value is another, gone, or there twice."""
    value = json.loads(text)
    *above, last = data.draw(st.sampled_from([place for place in places(value) if place]))
    room = value
    for key in above:
        room = room[key]
    how = data.draw(st.sampled_from(["replace", "replace", "delete", "repeat", "nest"]))
    if how == "replace":
        room[last] = data.draw(st.sampled_from(ODD))
    elif how == "delete":
        del room[last]
    elif how == "repeat" and isinstance(room, list):
        room.append(room[last])
    elif how == "repeat":
        room[data.draw(st.sampled_from(["x", f"{last}s", f"x.{last}"]))] = room[last]
    else:
        for _ in range(data.draw(st.sampled_from([1, 60, 500]))):
            room[last] = [room[last]]
    return json.dumps(value).encode()


def repacked(data: st.DataObject, content: bytes) -> bytes:
    """An npz of which an array is another or gone, though its checksums are right."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = data.draw(st.sampled_from(sorted(arrays)))
    array = arrays.pop(name)
    how = data.draw(st.sampled_from(["gone", "text", "objects", "flat", "longer", "empty", "complex"]))
    if how == "objects":
        arrays[name] = np.array([None, {}], object)
    elif how != "gone":
        arrays[name] = {
            "text": lambda: np.array("x"), "flat": lambda: array.reshape(-1)[..., None, None],
            "longer": lambda: np.concatenate([np.atleast_1d(array)] * 2), "empty": lambda: np.zeros(0),
            "complex": lambda: np.zeros(np.shape(array), complex),
        }[how]()  # fmt: skip
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def damaged(data: st.DataObject, name: str, whole: bytes) -> tuple[bytes, bool]:
    """A damaged file, and whether it is another file of the same kind, which checksums cannot tell."""
    how = data.draw(st.sampled_from(["flip", "flip", "cut", "drop", "swap", "mutate", "mutate"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if how == "flip":
        return whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :], False
    if how == "cut":
        return whole[:at], False
    if how == "drop":
        return whole[:at] + whole[at + data.draw(st.integers(1, 64)) :], False
    if how == "swap":
        return whole[:at] + data.draw(st.binary(min_size=1, max_size=16)) + whole[at + 1 :], False
    return (repacked(data, whole), True) if whole.startswith(b"PK") else (mutated(data, whole), False)


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return all(key in found and same(found[key], value) for key, value in expected.items())
    return np.array_equal(found, expected)


def hold(kind: Kind, name: str, cases: int) -> None:
    whole, expected = kind.file.read_bytes(), kind.read()

    @settings(
        max_examples=cases, deadline=1000 * SECONDS, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(st.data())
    def holds(data):
        content, another = damaged(data, name, whole)
        kind.file.write_bytes(content)
        try:
            found = kind.read()
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and str(error)
            return
        except OSError as error:
            raise AssertionError(f"{error} of a file that is there") from error
        refused = found is None or found == {} or (name == "checkpoint digest" and isinstance(found, str))
        if kind.sealed and not another and content != whole and not refused:
            assert same(found, expected)

    try:
        holds()
    finally:
        kind.file.write_bytes(whole)
    assert same(kind.read(), expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_as_it_was_written_or_refused_in_a_line(kinds, name):
    hold(kinds[name], name, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_damaged_files_are_read_as_they_were_written_or_refused_in_a_line(kinds, name):
    hold(kinds[name], name, 320)
