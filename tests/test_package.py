import ast
import importlib
import subprocess
import sys
import types

import pytest
from conftest import ROOT, tiny_config

PACKAGE = ROOT / "ddm_embed"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room imports rooms of lower floors alone. A program, X/__main__.py, stands on the highest.
FLOORS = (
    "errors",
    "json_reader reproducible terminal",
    "results fields",
    "diffusion models",
    "parallel",
    "data",
    "methods",
    "config",
    "runs",
    "drawing",
    "arms validate",
    "train",
    "features",
    "heads",
    "probe",
    "report",
    "compare",
    "sample embed export preflight",
    "search embedder reference",
    "cli",
    "main study",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
HIGHEST = len(FLOORS)
MATHEMATICS = ("diffusion", "models")  # know no config, and raise no errors for users


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_goes_up(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        assert list(imports(path)) == ["ddm_embed.embedder.Embedder"]  # within a function
        return
    floor = HIGHEST if path.name == "__main__.py" else FLOOR[room]
    for name in imports(path):
        package, _, inner = name.partition(".")
        assert package not in ("tensorflow", "torch")
        if package != "ddm_embed" or inner == "__version__":
            continue
        other = inner.split(".")[0]
        assert other == room or FLOOR[other] < floor, f"{path.relative_to(PACKAGE)} imports {name}"
        if room in MATHEMATICS:
            assert other not in ("config", "errors"), f"{path.relative_to(PACKAGE)} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}

    def targets(path):
        for name in imports(path):
            while name and name not in names:
                name = name.rpartition(".")[0]
            if name and "." in name and names[name] != path:
                yield name

    arrows = {name: set(targets(path)) for name, path in names.items()}
    while leaves := [name for name, to in arrows.items() if not to]:  # take away what imports nothing that is left
        for name in leaves:
            del arrows[name]
        arrows = {name: to & arrows.keys() for name, to in arrows.items()}
    assert not arrows, f"a circle: {arrows}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_every_name_that_is_taken_from_a_module_is_there(path):
    """Also within functions that no quick test runs: jaxtyping's strings keep linters from telling."""
    tree, modules = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ddm_embed":
            room = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(room, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found = getattr(room, alias.name)
                if isinstance(found, types.ModuleType):
                    modules[alias.asname or alias.name] = found
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules.keys() - stored
        ):
            assert hasattr(modules[node.value.id], node.attr), f"{path}:{node.lineno}: {node.value.id}.{node.attr}"


def test_importing_is_instant_and_loads_neither_tensorflow_nor_readers():
    code = (
        "import sys, ddm_embed; assert not {'jax', 'numpy'} & set(sys.modules)\n"
        "import ddm_embed.train.loop, ddm_embed.probe.evaluate, ddm_embed.report.page\n"
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
    assert config.embedding.input == "xt" and config.train.steps == 1234 and config.name.startswith(name)
    for wrong in ("inputs=xt", "steps", "steps=many", "steps=1.5"):
        with pytest.raises(UserError):
            module.get_config(wrong)


def test_no_file_is_too_long():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, f"{path} is asking to become two"


def test_the_tests_own_config_is_locked():
    with pytest.raises(AttributeError):
        tiny_config().train.stepz = 3
