import ast
import subprocess
import sys

import pytest
from conftest import ROOT, tiny_config

PACKAGE = ROOT / "ddm_embed"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Who may import whom: a room may import itself, the rooms listed, and config, errors and files, which import no others.
ALLOWED = {
    "config": {"errors"},
    "errors": set(),
    "files": set(),
    "patches": set(),
    "trace": set(),
    "provenance": set(),
    "reference": set(),
    "diffusion": set(),
    "baselines": {"diffusion", "patches"},
    "models": {"patches"},
    "parallel": set(),
    "data": {"parallel", "patches"},
    "validate": {"bounds", "diffusion", "models", "patches", "system"},
    "arms": set(),
    "bounds": {"diffusion", "models", "data", "system"},
    "system": {"baselines", "diffusion", "models", "patches"},
    "figure": {"patches", "trace"},
    "chips": set(),
    "trained": {"baselines", "data.labels", "diffusion", "models", "parallel", "system", "train.checkpoint"},
    "train": {"baselines", "diffusion", "models", "data", "parallel", "system"}
    | {"validate", "figure", "chips", "provenance"},
    "estimate": {"chips", "parallel", "patches", "system", "train", "validate"},
    "heads": {"data", "models", "parallel"},
    "evaluate": {"diffusion", "models", "data", "heads", "parallel", "patches", "system", "validate", "trained"}
    | {"provenance", "trace"},
    "frozen": {
        "data",
        "diffusion",
        "evaluate.features",
        "models",
        "parallel",
        "patches",
        "system",
        "trained",
        "validate",
    },
    "report": {"evaluate", "figure"},
    "comparison": {"report.document"},
    "decode": {"diffusion", "parallel", "patches", "system", "trained", "figure", "heads"},
    "exporting": {"__version__", "comparison.runs", "frozen", "system"},
    "export": {"cli", "exporting", "frozen"},
    "cli": {"parallel"},
    "embed": {"cli", "embeddings", "frozen"},
    "embeddings": {"__version__", "data", "frozen", "evaluate", "trace"},
    "embedder": {"frozen", "pretrain"},
    "pretrain": {"arms", "data.folder", "frozen", "system", "train", "validate"},
    "compare": {"cli", "comparison"},
    "main": {"cli", "train", "evaluate", "report", "parallel"},
    "preflight": {"chips", "cli", "data.source", "estimate", "figure", "validate"},
    "probe": {"cli", "evaluate", "report", "validate", "parallel"},
    "search": {"cli", "embeddings", "figure", "frozen"},
    "sample": {"cli", "data", "decode", "evaluate", "figure", "trained", "validate"},
}
MATHEMATICS = ("diffusion", "baselines", "models")  # know no config, and raise no errors for users


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_architecture(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        assert list(imports(path)) == ["ddm_embed.embedder.Embedder"]  # within a function
        return
    free = {room} if room in MATHEMATICS else {room, "config", "errors", "files"}
    for name in imports(path):
        package, _, inner = name.partition(".")
        if package == "ddm_embed":
            allowed = ALLOWED[room] | free
            assert any(inner == a or inner.startswith(a + ".") for a in allowed), f"{path.name} imports {name}"
        assert package not in ("tensorflow", "torch")


def test_importing_is_instant_and_loads_neither_tensorflow_nor_readers():
    code = (
        "import sys, ddm_embed; assert not {'jax', 'numpy'} & set(sys.modules)\n"
        "import ddm_embed.main, ddm_embed.probe, ddm_embed.sample, ddm_embed.data.folder\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'tensorboardX'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10", "imagenet256_xl"])
def test_config_files_are_valid_and_take_strict_arguments(name):
    import importlib.util

    from ddm_embed.errors import UserError
    from ddm_embed.validate import validate

    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    validate(module.get_config())
    config = module.get_config("input=xt,steps=1234")
    assert config.embedding.input == "xt" and config.train.steps == 1234 and config.name == name
    for wrong in ("inputs=xt", "steps", "steps=many", "steps=1.5"):
        with pytest.raises(UserError):
            module.get_config(wrong)


def test_no_file_is_too_long():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 300, f"{path} is asking to become two"


def test_the_tests_own_config_is_locked():
    with pytest.raises(AttributeError):
        tiny_config().train.stepz = 3
