"""All launchers: linted, documented as they are, and built of what there is."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import fakes
import pytest
from conftest import ROOT

LAUNCH = ROOT / "launch"
SHELL = sorted(
    file for file in LAUNCH.iterdir() if file.is_file() and re.match(r"#.*\b(bash|shell=bash)\b", file.read_text())
)
README = (LAUNCH / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", "").splitlines()]


def test_every_shell_script_is_linted():
    names = {file.name for file in SHELL}
    assert names == {"dry_run.sh", "gke", "slurm", "slurm.sbatch", "tpu", "worker"}


@pytest.mark.parametrize("script", SHELL, ids=lambda file: file.name)
def test_shellcheck_passes(script):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=path)
    assert shellcheck, "pip install -e '.[test]' brings shellcheck"
    command = [shellcheck, "--external-sources", "--enable=quote-safe-variables,deprecate-which", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["gke", "local", "slurm", "slurm.sbatch", "tpu", "worker", "render_jobset.py"])
def test_what_is_called_can_be(name):
    assert os.access(LAUNCH / name, os.X_OK) and (LAUNCH / name).read_text().startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("name", ["gke", "slurm", "tpu"])
def test_help_names_every_option_and_the_parser_knows_every_one_of_them(name):
    text = subprocess.run([LAUNCH / name, "--help"], capture_output=True, text=True, check=True).stdout
    parser = (LAUNCH / name).read_text().partition("\nparse() {")[2].partition("\n}\n")[0]
    known = set(re.findall(r"--[a-z][-a-z]*(?=[ )|])", parser)) - {"--help"}
    assert known and known == set(re.findall(r"--[a-z][-a-z]*", text)) & known
    told = set(re.findall(r"^  +(--[a-z][-a-z]*)", text, re.MULTILINE))
    assert told <= known


def test_the_readme_names_every_launcher_and_every_command_of_theirs():
    for name in ("local", "tpu", "gke", "slurm"):
        assert f"(`{name}`)" in README or f"[`{name}`]({name})" in README
    shown = {tuple(shlex.split(command)[:2]) for command in COMMANDS}
    for command in ("create", "status", "setup", "run", "logs", "stop", "watch", "delete"):
        assert ("launch/tpu", command) in shown
    for command in ("apply", "status", "logs", "stop", "delete"):
        assert ("launch/gke", command) in shown
    for command in ("submit", "status", "logs", "stop"):
        assert ("launch/slurm", command) in shown


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("launch/")])
def test_the_readmes_commands_are_accepted(command, tmp_path):
    cloud = fakes.make(tmp_path)
    launcher, *rest = shlex.split(command)
    cut = rest.index("--") if "--" in rest else len(rest)
    done = subprocess.run(
        [ROOT / launcher, *rest[:cut], "--dry-run", *rest[cut:]],
        capture_output=True,
        text=True,
        env=cloud.environment() | {"PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout and not cloud.calls()


def test_the_readmes_other_commands_build_the_image():
    others = [line for line in COMMANDS if not line.startswith("launch/")]
    assert [line.split()[:2] for line in others] == [["docker", "build"], ["docker", "push"]]
    assert "--build-arg EXTRA=tpu" in others[0] and others[0].endswith(" .")


def dockerfile():
    """(instruction, arguments) of each line of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def test_the_dockerfile_copies_what_there_is_and_the_context_has_it():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for word, rest in dockerfile() if word == "COPY" for source in rest.split()[:-1]}
    assert copied == kept
    for source in copied:
        assert (ROOT / source).exists()


def test_the_dockerfile_installs_an_extra_that_setup_has():
    tree = ast.parse((ROOT / "setup.py").read_text())
    [extras] = [word.value for word in ast.walk(tree) if isinstance(word, ast.keyword) and word.arg == "extras_require"]
    names = {key.value for key in extras.keys}
    check, install = [rest for word, rest in dockerfile() if word == "RUN" and "EXTRA" in rest]
    offered = set(re.search(r"in ([a-z |]+)\)", check).group(1).replace(" ", "").split("|"))
    assert offered == {"tpu", "cuda"} <= names
    assert '".[$EXTRA,gcs]"' in install


def test_the_image_runs_the_program_itself_and_not_as_root():
    words = dict(dockerfile())
    assert words["FROM"].startswith("python:3.12")
    assert words["USER"] == "ddm_embed"
    assert words["ENTRYPOINT"] == '["python", "-m", "ddm_embed.main"]'


def test_all_launchers_agree_with_the_programs_on_the_exit_code():
    [code] = re.findall(r"^STOPPED = (\d+)", (ROOT / "ddm_embed" / "cli.py").read_text(), re.MULTILINE)
    for name in ("worker", "slurm.sbatch", "local"):
        assert re.search(rf"\b{code}\b", (LAUNCH / name).read_text())
