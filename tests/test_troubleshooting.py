"""docs/troubleshooting.md quotes messages as they are printed."""

import ast
import re
from pathlib import Path

import jax
import pytest
from conftest import ROOT
from documents import blocks

PAGE = ROOT / "docs" / "troubleshooting.md"
BY_JAX = Path(jax.__file__).parent / "_src" / "xla_bridge.py"
# libtpu, which is not installed here, says these; those of the lock were read in libtpu 0.0.52 itself.
BY_LIBTPU = ("The TPU is already in use", "Internal error when accessing libtpu", "backend 'tpu': ABORTED: The TPU")
LITERAL = 20  # characters that a message must have of its own, apart from names and values


def template(node, docstrings, constants):
    """A pattern of what this string of the code prints: a value in it stands for any text; None if it says little."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
        parts = re.split(r"(%[-\d.]*[sdf]|\{\w*\})", node.value)
        pieces = [None if i % 2 else part for i, part in enumerate(parts)]
    elif isinstance(node, ast.JoinedStr):
        named = {id(part): constants.get(getattr(getattr(part, "value", None), "id", "")) for part in node.values}
        pieces = [part.value if isinstance(part, ast.Constant) else named[id(part)] for part in node.values]
    else:
        return None
    said = sum(len(piece) for piece in pieces if piece)
    return re.compile("".join(".*" if p is None else re.escape(p) for p in pieces)) if said >= LITERAL else None


def templates(*files):
    found = []
    for file in files:
        tree = ast.parse(file.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        nodes = (node for node in ast.walk(tree) if id(node) not in inner)
        found += filter(None, (template(node, docstrings, constants) for node in nodes))
    return found


OURS = [line for block in blocks(PAGE, "text") for line in block.text.splitlines()]
OTHERS = [line for block in blocks(PAGE, "console") for line in block.text.splitlines()]


@pytest.fixture(scope="module")
def package():
    return templates(*sorted((ROOT / "ddm_embed").rglob("*.py")))


@pytest.mark.parametrize("line", OURS, ids=lambda line: line[:60])
def test_a_message_of_ours_is_quoted_as_the_code_prints_it(line, package):
    said = line.removeprefix("error: ").removeprefix("ddm_embed.errors.UserError: ")
    assert any(pattern.fullmatch(said) or pattern.fullmatch(line) for pattern in package)


@pytest.fixture(scope="module")
def jaxs():
    patterns = templates(BY_JAX)
    return [piece for pattern in patterns for piece in pattern.pattern.split(".*") if len(piece) >= LITERAL]


@pytest.mark.parametrize("line", OTHERS, ids=lambda line: line[:60])
def test_a_message_of_jax_is_one_that_jax_prints(line, jaxs):
    assert any(re.search(piece, line) for piece in jaxs) or any(words in line for words in BY_LIBTPU)


def test_the_page_answers_what_it_is_asked_for():
    text = PAGE.read_text()
    for word in ("CUDA", "XLA_PYTHON_CLIENT_PREALLOCATE", "RESOURCE_EXHAUSTED", "not prepared", "/tmp/libtpu_lockfile"):
        assert word in text, word
    assert len(OURS) >= 20 and len(OTHERS) >= 4
