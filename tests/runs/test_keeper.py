"""Only `ddm_embed.runs` opens files of run directories; it is the place that tells what can be trusted."""

import ast

import pytest
from conftest import ROOT

PACKAGE = ROOT / "ddm_embed"
OUTSIDE = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py") if path.parent.name != "runs"}

FILES = {
    "config.json", "versions.json", "data.json", "classes.json", "parameters.txt", "metrics.jsonl", "digest.json",
    "results.json", "predictions.npz", "atlas.npz", "profile.png", "report.html", "train_images.npy", ".lock",
}  # fmt: skip
FOLDERS = {"checkpoints", "corrupt", "tensorboard", "samples", "probe", "data"}
MAY_NAME = {  # files of other places that have these names
    "features/exported.py": {"config.json"},  # of an export
}

OPENS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "touch", "rmtree", "rename"}
OPENS |= {"write_whole", "write_json", "read_bytes", "read_json", "read_arrays"}
NUMPY_OPENS = {"load", "loadtxt", "save", "savez", "savez_compressed"}
MAY_OPEN = {
    "compare/__main__.py": "a comparison, where the user wants it",
    "compare/report.py": "a comparison, where the user wants it",
    "cli.py": "nowhere, where a stream was closed",
    "data/arrays.py": "the user's arrays",
    "data/digits.py": "scikit-learn's digits",
    "data/image_file.py": "the user's images",
    "data/sources.py": "a dataset, by its source's `open`",
    "data/tfds.py": "a prepared dataset's description",
    "drawing.py": "a picture, where its caller says: the keeper's path, or the user's",
    "embed/layout.py": "a file of embeddings",
    "embed/making.py": "a file of embeddings and its parts",
    "embed/listing.py": "the user's arrays",
    "export/written.py": "an export",
    "features/exported.py": "an export",
    "preflight/__main__.py": "the file that --json names",
    "reference.py": "the package's list of fields",
    "report/document.py": "the package's style sheet and script",
    "study/__main__.py": "a study's lock",
    "study/work.py": "a study's log and times",
    "study/written.py": "a study's table",
}


def path_literals(tree):
    """Texts that name files: such a text by itself, and what a path is joined with; no docstrings nor messages."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield from set(node.value.split("/")) & FILES
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            for part in ast.walk(node.right):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from set(part.value.split("/")) & (FILES | FOLDERS)


def opened(tree):
    """Names of what opens files, where it is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            *of, name = ast.unparse(node.func).split(".")
            if name in OPENS or (of == ["np"] and name in NUMPY_OPENS):
                yield name


@pytest.mark.parametrize("module", OUTSIDE)
def test_no_other_room_names_a_file_of_a_run_directory(module):
    found = set(path_literals(ast.parse(OUTSIDE[module].read_text()))) - MAY_NAME.get(module, set())
    assert not found, f"{module} names {found}; ask ddm_embed.runs.directory.RunDirectory"


def test_other_rooms_open_only_what_is_the_users_or_the_packages_own():
    found = {module for module, path in OUTSIDE.items() if any(opened(ast.parse(path.read_text())))}
    assert found == MAY_OPEN.keys(), "a module that opens files says here which, and those of a run are the keeper's"


@pytest.mark.parametrize(
    "code",
    ['workdir / "data.json"', 'workdir / "samples" / "a.png"', 'Path("probe/linear/results.json")', 'w / f"probe/{n}"'],
)
def test_ways_to_name_such_a_file_are_found(code):
    assert list(path_literals(ast.parse(code)))


def test_messages_may_name_such_files():
    assert not list(path_literals(ast.parse('f"{folder}/results.json: missing"; "no config.json; train one first"')))
