"""What is built from the checkout, installed and used without it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "configs", "ddm_embed", "pyproject.toml", "setup.py")


def run(*command, cwd):
    """What a command prints that knows nothing of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, python of an environment with the wheel built from it); dependencies are those of the tests' own."""
    work = tmp_path_factory.mktemp("built")
    checkout = work / "checkout"  # a copy: what an earlier build left in the checkout would be packed, too
    checkout.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    run(sys.executable, "-m", "venv", "env", cwd=work)
    python = work / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "build", cwd=work)
    run(python, "-m", "build", "--outdir", "dist", checkout, cwd=work)  # builds the wheel from the sdist
    (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
    run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=work)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return sdist, python


@pytest.mark.slow
def test_the_sdist_holds_the_package_with_its_configs_and_no_tests(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = [path for folder in ("configs", "ddm_embed") for path in (ROOT / folder).rglob("*.*")]
    assert {str(path.relative_to(ROOT)) for path in sources if path.suffix != ".pyc"} <= names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_the_wheel_trains_and_probes_the_digits_by_their_configs_names_without_a_clone(built, tmp_path):
    _, python = built
    package = run(python, "-c", "import ddm_embed; print(ddm_embed.__file__)", cwd=tmp_path)
    assert Path(package).is_relative_to(python.parents[1])
    training = ("--config", "digits:steps=5", "--config.optimizer.warmup_steps=1", "--workdir=run")
    run(python, "-m", "ddm_embed.main", *training, "--config.probe.after_training=False", cwd=tmp_path)
    probing = ("--config=probe:name=short", "--config.times=0.0,", "--config.noise_draws=1", "--config.measures=False")
    assert "test accuracy" in run(python, "-m", "ddm_embed.probe", "--workdir=run", *probing, cwd=tmp_path)
    assert (tmp_path / "run" / "probe" / "short" / "report.html").exists()
