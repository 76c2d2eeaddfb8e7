"""README and the other documents: every block of code runs, at reduced length; what is generated is that of the code;
links lead somewhere."""

import importlib.util
import re
import shutil
import subprocess
from collections import defaultdict

import pytest
from conftest import AS_USERS_DO, ROOT
from documents import DOCUMENTS, blocks, execute, make_sandbox, write_digits
from probed import make_results, write_run

from ddm_embed import arms, reference
from ddm_embed import config as config_lib

# Blocks that do not run here: a part of their text, and why. Each must be met.
NOT_RUN = {
    "seglearn": "downloads a package that holds data; the block before it does the same with the digits",
    "pip install": "installs; .ci/run installs by README's own command on a new machine",
    "download_and_prepare": "needs TensorFlow, and downloads a dataset",
    "hf upload": "publishes",
    "docker build": "needs docker and a registry",
    "tests/faults/campaign.py": "breaks real runs for an hour; tests/faults runs a short version",
    "tests/probe/speed_sweep.py": "measures time on 30,000 images; the sweep has tests of its own",
    "tests/diffusion/convergence.py": "draws a figure; tests/diffusion tests what it draws",
    "sed -i s,OWNER": "rewrites the repository",
}
# What is left out of blocks to make them shorter; each must be met.
SHORTER = {
    "Embedder(steps=1000": "Embedder(steps=4",
    "image_size=32, arm": "image_size=8, arm",
    '{"model.depth": 6}': '{"model.depth": 1, "model.width": 16, "model.heads": 2, "embedding.dim": 8}',
    "for seed in 0 1 2": "for seed in 0",
    "in ddm drl drl-static vdrl ddae": "in vdrl",
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && ": "",
    "for t in 0.2 0.5 0.6 0.7": "for t in 0.2 0.5",
    "runs/at_0.5,runs/at_0.6,runs/at_0.7": "runs/at_0.5",
    "runs/ddm_0": "runs/digits",
    "runs/studies/fashion_mnist/ddm_0": "runs/digits",
    "protocols=ridge,logistic,knn,fewshot": "protocols=ridge,fewshot",
    "--picture=all": "--picture=one_z",
}
QUICK = {
    "Compare runs",
    "A run directory",
    "Cloud TPU",
    "GKE",
    "SLURM",
}  # sections that take seconds; the others are of the slow stage

# Those of extending.md are one file together, which test_extending runs.
BLOCKS = [
    block for path in DOCUMENTS if path.name != "extending.md" for block in blocks(path, "sh", "python", "inline")
]


def reason(block):
    return next((why for words, why in NOT_RUN.items() if words in without(block.text)), None)


def without(text):
    for words, shorter in SHORTER.items():
        text = text.replace(words, shorter)
    return text


def sections():
    """Blocks that run, by document and section: those of a section run in order, in a sandbox of their own."""
    found = defaultdict(list)
    for block in BLOCKS:
        if reason(block) is None:
            found[block.document, block.sections[-1]].append(block)
    return found


@pytest.fixture(scope="module")
def sandbox(tiny_run, tmp_path_factory):
    _, workdir = tiny_run
    return make_sandbox(tmp_path_factory.mktemp("readme") / "sandbox", workdir)


@pytest.mark.parametrize(
    "document, section",
    [pytest.param(*key, marks=() if key[1] in QUICK else pytest.mark.slow, id=": ".join(key)) for key in sections()],
)
def test_every_command_of_a_section_runs(document, section, sandbox, tmp_path):
    here = tmp_path / "sandbox"
    shutil.copytree(sandbox, here, symlinks=True)
    if "--config configs/digits.py\n" in "".join(block.text + "\n" for block in sections()[document, section]):
        shutil.rmtree(here / "runs" / "digits")  # which the section trains itself
    if section == "Compare runs":
        for seed, name in enumerate(("digits", "digits_vdrl", "digits_ddae")):
            shutil.rmtree(here / "runs" / name, ignore_errors=True)
            write_run(here / "runs" / name, make_results(name=name, seed=seed))
    for block in sections()[document, section]:
        language = "sh" if block.language == "inline" else block.language
        process = execute(without(block.text), language, here, timeout=900)
        assert process.returncode == 0, f"{document}:{block.line}\n{process.stdout}\n{process.stderr}"


def ten_lines():
    section = "From a folder of images to a classifier"
    return next(b.text for b in BLOCKS if b.sections[-1] == section and b.language == "python")


def test_from_a_folder_to_a_classifier_it_takes_ten_lines():
    assert len([line for line in ten_lines().splitlines() if line]) == 10


@pytest.mark.slow  # trains for a minute
def test_the_ten_lines_come_close_to_what_the_readme_says_in_half_their_steps(tmp_path):
    here = make_sandbox(tmp_path / "sandbox")
    write_digits(here / "photos", number=1797)
    assert "steps=1000" in ten_lines()
    lines = ten_lines().replace("steps=1000", "steps=500")
    process = execute(lines, "python", here, timeout=1200, XLA_FLAGS=AS_USERS_DO)
    assert process.returncode == 0, process.stderr
    accuracy = float(re.fullmatch(r"accuracy ([\d.]+)", process.stdout.splitlines()[-1]).group(1))
    promised = float(re.search(r"prints `accuracy ([\d.]+)`", (ROOT / "README.md").read_text()).group(1))
    assert accuracy > promised - 0.03  # two standard deviations of 450 images


def test_every_exception_is_still_met():
    texts = [block.text for block in BLOCKS]
    for words in [*NOT_RUN, *SHORTER]:
        assert any(words in text for text in texts), f"{words!r} is in no block"


def test_every_block_has_a_language():
    for path in DOCUMENTS:
        opened = re.findall(r"^```(\w*)$", path.read_text(), re.M)[::2]
        assert set(opened) <= {"sh", "python", "text", "console", "json"}, (
            f"{path}: others are neither run nor left out"
        )


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_in_the_documents_is_what_the_code_says_now():
    generate, met = generator(), set()
    for page in DOCUMENTS:
        text = page.read_text()
        met |= {name for _, name, _ in generate.PART.findall(text)}
        assert generate.generated(text) == text, f"{page} is stale: run python docs/generate.py"
    assert met == set(generate.PARTS)


def test_each_arm_has_one_row_with_the_sources_that_it_names():
    text = (ROOT / "docs" / "methods.md").read_text()
    _, *rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `") and row.count(" | ") == 3]
    assert [arm.strip("| `") for arm, *_ in rows] == list(arms.arms())
    for (name, arm), (_, source, *_) in zip(arms.arms().items(), rows, strict=True):
        cited = re.findall(r"arXiv (\d{4}\.\d{4,5})", source)
        assert all(number in arm.__doc__ for number in cited) and bool(cited) == ("arXiv" in arm.__doc__), name


@pytest.mark.parametrize("make", ["default", "probe_default", "sample_default", "study_default"])
def test_the_reference_of_each_config_covers_every_field(make):
    function = getattr(config_lib, make)
    table = reference.table(function)
    assert sorted(row.split("`")[1] for row in table.splitlines()[2:]) == sorted(config_lib.flatten(function()))
    assert table in (ROOT / "docs" / "config.md").read_text(), "run python docs/generate.py"


def test_the_index_and_the_site_lead_to_every_page():
    index, site = (ROOT / "docs" / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for page in DOCUMENTS[1:-1]:
        assert page.name == "index.md" or f"]({page.name})" in index, page
        assert re.search(rf"^ +- (\w+: )?{page.name}$", site, re.M), page


def anchors(path):
    """The names that a heading's link has, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_to_files_and_headings_that_are_there(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            place = (path.parent / file) if file else path
            assert place.exists(), f"{path}: {target}"
            assert not anchor or anchor in anchors(place), f"{path}: {target}"


def test_the_repositorys_address_is_the_same_everywhere():
    """An owner sets it once, with the command that README gives."""
    address = re.search(r'url="https://github.com/([^"]+)"', (ROOT / "setup.py").read_text()).group(1)
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    named = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w-]+/ddm_embed)")
    for file in [ROOT / "README.md", ROOT / "mkdocs.yml", *notebooks]:
        assert set(named.findall(file.read_text())) <= {address}, file
    for notebook in notebooks:
        badge = f"https://colab.research.google.com/github/{address}/blob/main/notebooks/{notebook.name}"
        assert badge in (ROOT / "README.md").read_text(), f"README has no badge of {notebook.name}"


def test_the_sandboxs_programs_are_shortened(tmp_path):
    here = make_sandbox(tmp_path / "sandbox")
    shown = subprocess.run(
        [here / "bin" / "python", "-c", "import sys; print(sys.argv)", "-m", "ddm_embed.main", "configs/cifar10.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--config.train.steps=4" in shown and "arrays:made/32x32x3" in shown
