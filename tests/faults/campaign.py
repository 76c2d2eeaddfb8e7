"""Faults done to real runs, and a table of what came of them.

    python tests/faults/campaign.py [--kills 100] [--terms 10] [--corruptions 20] [--process-kills 20]
      [--process-stops 6] [--process-terms 6] [--storage 3] [--at-a-time 1] [--seed 0] [--markdown FILE] [--folder DIR]

Every disturbed run is let end at last and must come to what an undisturbed one does: the same loss at each step and the
same last checkpoint, bit for bit; to 1e-5 for several processes, which add in another order. Exit code 1 if any fault
broke a promise. Runs stay in DIR where something did.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import corruption
import kills
import processes
import runs
import storage
from runs import INTERVAL, Reference, Trial

STEPS = 200
PART = 10  # faults of a run, at most


class Job(NamedTuple):
    """Faults that disturb no other job's runs: how many, whether to runs of several processes, and what does them."""

    count: int
    several: bool
    do: Callable[[], list[Trial]]


def main() -> int:
    options = parse()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults_"))
    say(f"an undisturbed run of {STEPS} steps, in {folder}")
    reference = runs.make_reference(folder / "reference", STEPS)
    trials, refused = carry_out(list(jobs(options, folder, reference)), options.at_a_time)
    text = table(trials, refused)
    print(text)
    broken = [trial for trial in trials if trial.problem]
    for trial in broken:
        print(f"{trial.fault}: {trial.problem}")
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if not broken and not options.folder:
        shutil.rmtree(folder)
    return 1 if broken else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count, what in (
        ("kills", 100, "SIGKILLs to runs of one process"),
        ("terms", 10, "SIGTERMs to runs of one process"),
        ("process-kills", 20, "SIGKILLs to one of four processes"),
        ("process-stops", 6, "SIGSTOPs to one of four processes"),
        ("process-terms", 6, "SIGTERMs to one of four processes"),
        ("corruptions", 20, "damaged checkpoints"),
        ("storage", 3, "of each trouble with storage"),
        ("at-a-time", 1, "runs of one process at the same time, beside one of four processes"),
        ("seed", 0, "of all moments, files and bytes"),
    ):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"{what} (default {count})")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--folder", type=Path, help="for the runs; kept (default: a temporary one)")
    return parser.parse_args()


def jobs(options: argparse.Namespace, folder: Path, reference: Reference) -> Iterator[Job]:
    """Parts that do not disturb one another."""
    seed = options.seed
    for fault, count, number, run in (
        ("kill", options.kills, signal.SIGKILL, kills.run_with),
        ("term", options.terms, signal.SIGTERM, kills.run_with),
        ("damage", options.corruptions, None, corruption.run_with),
        ("process_kill", options.process_kills, signal.SIGKILL, processes.run_with),
        ("process_stop", options.process_stops, signal.SIGSTOP, processes.run_with),
        ("process_term", options.process_terms, signal.SIGTERM, processes.run_with),
    ):
        for first in range(0, count, PART):
            seed += 1
            size, place = min(PART, count - first), folder / f"{fault}_{first}"
            do = partial(repeat, run, [number] * size, place, reference, seed)
            yield Job(size, fault.startswith("process"), do)
    for number in range(options.storage):
        place = folder / f"storage_{number}"
        yield Job(
            1, False, lambda n=number, p=place: [storage.full(p / "full", (0, 60_000, 200_000)[n % 3], reference)]
        )
        yield Job(1, False, lambda p=place: [storage.read_only(p / "read_only", reference)])
        yield Job(1, False, lambda p=place: [storage.slow(p / "slow", reference)])
        yield Job(1, False, lambda p=place: [storage.stalled(p / "stalled", reference)])


def repeat(run: Callable, faults: list, folder: Path, reference: Reference, seed: int) -> list[Trial]:
    """Runs, one after another, until all faults are done: a run may end before."""
    trials, number = [], 0
    while len(trials) < len(faults):
        trials += run(faults[len(trials) :], folder / str(number), reference, seed * 1000 + number)
        number += 1
    return trials


def carry_out(work: list[Job], at_a_time: int) -> tuple[list[Trial], list[str]]:
    """The trials of all jobs, and what this machine refused to do; tells how far it is."""
    trials, refused, begin = [], [], time.monotonic()
    everything = sum(job.count for job in work)
    with ThreadPoolExecutor(1) as several, ThreadPoolExecutor(at_a_time) as single:
        counts = {(several if job.several else single).submit(job.do): job.count for job in work}
        for future in as_completed(counts):
            try:
                trials += (new := future.result())
                for trial in new:
                    if trial.problem:
                        say(f"{trial.fault}: {trial.problem}")
            except storage.Refused as error:
                refused.append(str(error))
            done = sum(count for known, count in counts.items() if known.done())
            left = (time.monotonic() - begin) / done * (everything - done)
            broken = sum(bool(trial.problem) for trial in trials)
            say(f"{done} of {everything} faults, {broken} broke a promise; ETA {left / 60:.0f} min")
    return trials, refused


def table(trials: list[Trial], refused: list[str]) -> str:
    """In Markdown: each fault, how many, how many recovered, the most work lost, the longest time to the end."""
    lines = [
        f"| fault | how many | recovered | most steps lost, saving every {INTERVAL} | longest until all had ended |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fault in dict.fromkeys(trial.fault for trial in sorted(trials)):
        rows = [trial for trial in trials if trial.fault == fault]
        recovered = sum(not trial.problem for trial in rows)
        saving = [trial.lost for trial in rows if trial.saving]
        lost = [str(max((trial.lost for trial in rows if not trial.saving), default=""))]
        lost += [f"{max(saving)} while one was being written ({len(saving)} times)"] if saving else []
        longest, bound = max(trial.seconds for trial in rows), max(trial.bound for trial in rows)
        end = f"{longest:.1f} s, of {bound:.0f} s" if bound else ""
        lines.append(f"| {fault} | {len(rows)} | {recovered} | {'; '.join(filter(None, lost))} | {end} |")
    lines += [f"\nNot tried: {reason}" for reason in dict.fromkeys(refused)]
    return "\n".join(lines)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
