"""The notebooks: executed from a clean kernel in the slow stage; what is committed is whole, and of a modest size."""

import base64
import struct

import nbformat
import pytest
from conftest import AS_USERS_DO, ROOT
from execute import execute

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
NAMES = ("train_and_probe", "explore_embeddings", "your_own_images", "tpu_pod")
LARGEST = 1_500_000  # bytes
PICTURES = {"train_and_probe": 2, "explore_embeddings": 6, "your_own_images": 2, "tpu_pod": 1}  # at least


def test_the_notebooks_are_those_that_are_promised():
    assert set(NOTEBOOKS) == set(NAMES)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    return [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_from_the_first_cell_to_the_last_and_is_of_a_modest_size(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run python tests/notebooks/execute.py --write"
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert NOTEBOOKS[name].stat().st_size < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_in_the_committed_outputs(name):
    found = pictures(nbformat.read(NOTEBOOKS[name], as_version=4))
    assert len(found) >= PICTURES[name]
    for picture in found:
        content = base64.b64decode(picture)
        width, height = struct.unpack(">II", content[16:24])
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and width > 200 and height > 50


def test_the_slider_over_t_works_without_a_kernel():
    """Its frames and its script are in the output itself."""
    notebook = nbformat.read(NOTEBOOKS["explore_embeddings"], as_version=4)
    pages = [output.data["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    slider = next(page for page in pages if 'type="range"' in page)
    assert slider.count("data:image/png;base64") >= 8 and "<script" in slider


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_only_where_the_package_is_missing(name):
    first = next(cell for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells if cell.cell_type == "code")
    assert 'find_spec("ddm_embed") is None' in first.source and "install" in first.source
    assert not first.outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_a_clean_kernel(name, tmp_path):
    notebook = execute(NOTEBOOKS[name], tmp_path, share=0.2, XLA_FLAGS=AS_USERS_DO)
    assert len(pictures(notebook)) >= PICTURES[name]
