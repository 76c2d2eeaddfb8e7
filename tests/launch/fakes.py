"""Stand-ins for the clouds' programs: each writes down how it was called, and plays its part on this machine."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

TOOLS = ("gcloud", "kubectl", "sbatch", "squeue", "scancel", "scontrol", "srun", "uv", "docker", "git")
FIELD, CALL = "\x1f", "\x1e"

TOOL = r"""#!/usr/bin/env bash
tool=$(basename "$0")
{ printf '%s\x1f' "$tool" "$@"; printf '\x1e'; } >>"$FAKE/calls"
value() { # of an option among the arguments
  local option=$1 previous='' word
  for word in "${@:2}"; do
    if [[ $previous == "$option" ]]; then printf '%s' "$word"; return; fi
    previous=$word
  done
}
"""

# A TPU of two workers, whose home directories are worker0 and worker1. `states` are what describe says, one at a time;
# the last one stays. Without the file there is no TPU.
GCLOUD = r"""
case "$3 $4" in
  *' describe')
    if [[ -e $FAKE/denied ]]; then echo 'ERROR: PERMISSION_DENIED: no' >&2; exit 1; fi
    if [[ ! -e $FAKE/states ]]; then echo 'ERROR: NOT_FOUND: Resource was not found' >&2; exit 1; fi
    head -n 1 "$FAKE/states"
    if (($(wc -l <"$FAKE/states") > 1)); then sed -i 1d "$FAKE/states"; fi ;;
  *' create') cat "$FAKE/after_create" >"$FAKE/states" ;;
  *' delete')
    for pid in "${FAKE:?}"/worker*/.ddm_embed/*/pid; do kill -KILL -- "-$(cat "$pid")"; done 2>/dev/null
    rm "$FAKE/states"; rm -rf "${FAKE:?}"/worker*/* "${FAKE:?}"/worker*/.ddm_embed ;;
  'tpu-vm scp')
    if [[ -e $FAKE/scp_fails ]]; then rm "$FAKE/scp_fails"; exit 1; fi
    for home in "$FAKE"/worker*; do cp "$5" "$home/${6#*:}"; done ;;
  'tpu-vm ssh')
    code=0 chosen=$(value --worker "$@")
    for home in "$FAKE"/worker*; do
      if [[ $chosen == all || $home == *"worker$chosen" ]]; then
        (cd "$home" && HOME=$home bash -c "$(value --command "$@")") || code=$?
      fi
    done
    exit "$code" ;;
esac
"""

GIT = r"""
if [[ $3 == archive ]]; then tar -czf "$(value --output "$@")" -C "$2" launch; fi
"""

SQUEUE = 'cat "$FAKE/jobs" 2>/dev/null || true\n'
SRUN = 'while [[ $1 == --* ]]; do if [[ $1 == *=* ]]; then shift; else shift 2; fi; done; "$@"\n'
KUBECTL = 'if [[ $* == *"--filename -" ]]; then cat >"$FAKE/applied"; fi\n'
SCONTROL = "if [[ $1 == requeue && -e $FAKE/requeue_disabled ]]; then exit 1; fi\n"
PARTS = {"gcloud": GCLOUD, "git": GIT, "squeue": SQUEUE, "srun": SRUN, "kubectl": KUBECTL, "scontrol": SCONTROL}


@dataclass(frozen=True)
class Fakes:
    """The folder of the stand-ins and of what they leave behind."""

    folder: Path

    def run(self, *arguments, program=None, **environment):
        """A launcher, run with none but the stand-ins within reach; its completed process."""
        command = [str(ROOT / "launch" / arguments[0]), *map(str, arguments[1:])]
        return subprocess.run(
            [*command, *(["--", *program] if program else [])],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env=self.environment() | environment,
        )

    def environment(self):
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        # Should a real tool be called all the same, it finds no account.
        nowhere = {"CLOUDSDK_CONFIG": str(self.folder / "none"), "KUBECONFIG": os.devnull, "HOME": str(self.folder)}
        return os.environ | nowhere | {"PATH": path, "FAKE": str(self.folder)}

    def calls(self, tool=None):
        """The arguments of each call so far, the tool's name first."""
        file = self.folder / "calls"
        text = file.read_text() if file.exists() else ""
        calls = [call.split(FIELD)[:-1] for call in text.split(CALL)[:-1]]
        return [call for call in calls if tool in (None, call[0])]

    def write(self, name, *lines):
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))


def make(folder: Path) -> Fakes:
    (folder / "bin").mkdir()
    for tool in TOOLS:
        file = folder / "bin" / tool
        file.write_text(TOOL + PARTS.get(tool, ""))
        file.chmod(0o755)
    for worker in ("worker0", "worker1"):
        (folder / worker).mkdir()
    (folder / "after_create").write_text("ACTIVE\n")
    return Fakes(folder)
