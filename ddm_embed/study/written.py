"""The table and the figure of a study, with what they were made by."""

import datetime
import os
import shlex
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed.compare import report
from ddm_embed.compare import table as tables
from ddm_embed.compare.runs import Result, read_runs
from ddm_embed.runs.files import write_whole
from ddm_embed.study.plan import Run
from ddm_embed.study.work import read_seconds


def write(config: ConfigDict, done: list[Run], missing: list[Run], workdir: Path, command: str) -> str:
    """Writes them, and the whole comparison into W/compare; what the terminal shows.

    Args:
      missing: runs that are not in the table, which says so.
    """
    results = read_runs([run.path for run in done], done[0].probe.config.name)
    found, left_out = tables.compare(results)
    folder = workdir / "compare"
    written = report.write(found, left_out, folder)
    table, figure = workdir / config.table, workdir / config.figure
    write_whole(figure, (folder / "compare.png").read_bytes())
    parts = [f"# {config.name}"]
    if missing:
        parts += [f"Not whole: {', '.join(run.name for run in missing)} are missing; the same command again adds them."]
    for one in found:
        parts += report.in_short(one)
    parts += [f"![Accuracy of each run]({os.path.relpath(figure, table.parent)})", "## Made by"]
    parts += _origin(done, results, read_seconds(workdir), command)
    write_whole(table, "\n\n".join(parts) + "\n")
    return f"{report.text(found, left_out)}\n\n{', '.join(map(str, [table, figure, *written]))}"


def _origin(done: list[Run], results: list[Result], seconds: dict[str, float], command: str) -> list[str]:
    """Command, commit, device, seeds and wall time; a line an arm, and its command."""
    known = [seconds.get(run.name, 0.0) for run in done]

    def distinct(values) -> str:
        return ", ".join(dict.fromkeys(values))

    commits = distinct(
        (one.manifest["commit"] or "unknown") + (" with changes" if one.manifest["dirty"] else "") for one in results
    )
    packages = distinct(" ".join(f"{k} {v}" for k, v in one.manifest["versions"].items()) for one in results)
    facts = {
        "commit": commits,
        "device": distinct(str(one.manifest["device"]) for one in results),
        "packages": packages,
        "seeds": distinct(str(run.seed) for run in done),
        "wall time": f"{tqdm.format_interval(sum(known))}, of {len(done)} runs together",
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    rows, commands = [], []
    for arm in dict.fromkeys(run.arm for run in done):
        own = [run for run in done if run.arm == arm]
        mean = sum(seconds.get(run.name, 0.0) for run in own) / len(own)
        rows.append([arm, str(len(own)), f"{own[0].steps:,}", f"{mean / 60:.1f}"])
        commands += [f"python -m {shlex.join(own[0].command('train'))}"]
    commands += [f"python -m {shlex.join(done[0].command('probe'))}"]
    table = report.markdown_table(["arm", "runs", "steps", "minutes a run, with its probe"], rows)
    first = "The commands of the first seed, and of the first probe:"
    facts = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    return [_block(command), facts, table, first, _block("\n".join(commands))]


def _block(text: str) -> str:
    return f"```sh\n{text}\n```"
