import ast
import subprocess
import sys

import pytest
from conftest import ROOT, tiny_config

PACKAGE = ROOT / "ddm_embed"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room may import the rooms below its own, and of its own floor those that are named first.
FLOORS = (
    "errors json_reader results config",
    "diffusion models",
    "parallel data runs drawing",
    "methods",
    "arms validate",
    "train",
    "features",
    "heads",
    "probe",
    "report compare",
    "reference cli embedder main sample embed search export preflight",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
MATHEMATICS = ("diffusion", "models")  # know no config, and raise no errors for users


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_room_has_a_floor_and_mathematics_stays_pure(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert room in FLOOR or room == "__init__"
    for name in imports(path):
        assert name.split(".")[0] not in ("tensorflow", "torch")
        if room in MATHEMATICS:
            assert not name.startswith(("ddm_embed.config", "ddm_embed.errors")), f"{path.name} imports {name}"


def test_importing_is_instant_and_loads_neither_tensorflow_nor_readers():
    code = (
        "import sys, ddm_embed; assert not {'jax', 'numpy'} & set(sys.modules)\n"
        "import ddm_embed.train.loop, ddm_embed.probe.evaluate, ddm_embed.report.publish\n"
        "import ddm_embed.sample.pictures, ddm_embed.data.folder, ddm_embed.data.sources\n"
        "ddm_embed.data.sources.open_source(ddm_embed.config.default())  # the digits\n"
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
        assert len(path.read_text().splitlines()) <= 400, f"{path} is asking to become two"


def test_the_tests_own_config_is_locked():
    with pytest.raises(AttributeError):
        tiny_config().train.stepz = 3
