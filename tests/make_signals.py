"""Writes a set of real signals as `arrays:PATH` reads it: train_sequences.npy, train_labels.npy, and those to test.

    python tests/make_signals.py digits DIR
    python tests/make_signals.py watch DIR

digits: scikit-learn's 1,797 digits, scanned line by line as signals of 64 samples; split as `data.name=digits` is.

watch: seven shoulder exercises of ten people, from an accelerometer and a gyroscope on the wrist, 50 samples a second
(Burns et al. 2018, Physiological Measurement 39, 075007), cut into windows of 192 samples that do not overlap. To test
are the three people numbered 8 to 10, of whom nothing is trained on. The file is in the package seglearn, which need
not work: `pip install --no-deps seglearn`.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

WINDOW = 192
TEST_SUBJECTS = (8, 9, 10)


def digits():
    """(sequences [1797, 64], labels, whether to test), in the order that splits them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.data))
    return found.data[order].astype(np.float32), found.target[order], np.arange(len(order)) >= 1297


def watch():
    """(sequences [1202, 192, 6], labels, whether to test)."""
    package = importlib.util.find_spec("seglearn")  # found and not imported: it wants an older scikit-learn
    if package is None:
        sys.exit("the package seglearn is missing; pip install --no-deps seglearn")
    file = Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    found = np.load(file, allow_pickle=True).item()
    windows, labels, subjects = [], [], []
    for recording, label, subject in zip(found["X"], found["y"], found["subject"], strict=True):
        count = len(recording) // WINDOW
        windows.append(recording[: count * WINDOW].reshape(count, WINDOW, -1))
        labels += [label] * count
        subjects += [subject] * count
    return np.concatenate(windows).astype(np.float32), np.array(labels), np.isin(subjects, TEST_SUBJECTS)


def write(folder: Path, sequences: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", ~test), ("test", test)):
        np.save(folder / f"{part}_sequences.npy", sequences[rows])
        np.save(folder / f"{part}_labels.npy", labels[rows])
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("digits", "watch"):
        sys.exit(__doc__)
    sequences, labels, test = {"digits": digits, "watch": watch}[sys.argv[1]]()
    write(Path(sys.argv[2]), sequences, labels, test)
    print(f"{sys.argv[2]}: {np.sum(~test)} sequences of {list(sequences.shape[1:])} to train, {np.sum(test)} to test")
