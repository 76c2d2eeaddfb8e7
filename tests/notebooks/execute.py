"""Runs notebooks from a clean kernel, each in an empty folder.

    python tests/notebooks/execute.py [--write] [NOTEBOOK ...]

All of notebooks/ by default. With --write the outputs are kept in the notebooks: look at their pictures before you
commit them.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 1500  # seconds a cell may take: far more than it needs, for machines with other work


def execute(path: Path, folder: Path, share: float = 1, **environment: str):
    """The notebook with the outputs of a fresh run in `folder`; NotebookClient's error names the cell that failed.

    Args:
      share: of the training steps that it takes.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = STEPS.sub(lambda found: found[1] + str(int(share * int(found[2]))), cell.source)
    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    setting = {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "MPLBACKEND": INLINE}
    client.execute(env=os.environ | setting | environment)
    return notebook


STEPS = re.compile(r"(\btrain\.steps = |Embedder\(steps=)(\d+)")
INLINE = "module://matplotlib_inline.backend_inline"


def main() -> int:
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the outputs")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    options = parser.parse_args()
    for path in options.notebooks:
        start, before = time.monotonic(), os.times()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        if options.write:
            for cell in notebook.cells:
                cell.metadata = {}  # times of execution, which would differ from run to run
            nbformat.write(notebook, path)
        after = os.times()
        busy = sum(after[2:4]) - sum(before[2:4])  # of the kernel, which has ended
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {busy:.0f} s of a core", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
