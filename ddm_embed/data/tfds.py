"""Datasets of TFDS, prepared as array_record."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ddm_embed import json_reader
from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError

NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\w.*]+)?")
TFDS_CLASS = re.compile(r"tensorflow_datasets(\.\w+)+")


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsImages:
    records: Sequence
    shape: tuple[int, int, int, int]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __getitem__(self, positions: np.ndarray) -> UInt8[np.ndarray, "batch height width channel"]:
        return np.stack([record["image"] for record in self.records.__getitems__(positions.tolist())])


def check_features(folder: Path) -> None:
    """Raises UserError unless the features of all that is prepared in a folder are TFDS's own: TFDS imports the classes
    that `features.json` names, and the file may be a stranger's."""

    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (str(value[key]) for key in ("pythonClassName", "python_class_name") if key in value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from named(inner)

    for file in folder.glob("**/features.json"):
        for name in named(json_reader.read(file.read_bytes(), file, "prepare the dataset again")):
            if not TFDS_CLASS.fullmatch(name):
                raise UserError(f"{file}: the class {name} is none of TFDS's own, and is not imported")


def open_source(name: str, data: ConfigDict) -> Source:
    """Opens a dataset prepared as array_record, which is read without TensorFlow, in `data_dir` or TFDS_DATA_DIR.

    Raises:
      UserError: there is no such dataset, it is not prepared, or its images have no fixed shape.
    """
    data_dir = data.data_dir or os.environ.get("TFDS_DATA_DIR")
    place = data_dir or "~/tensorflow_datasets"
    prepare = (
        'prepare it once, where TensorFlow is installed, with: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{place}', file_format='array_record').download_and_prepare()\""
    )
    if not NAME.fullmatch(name):
        raise UserError(f"config.data.name='tfds:{name}': expected NAME, NAME/VARIANT or either with :VERSION")
    check_features(Path(os.path.expanduser(place)) / re.split("[/:]", name)[0])
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"config.data.name='tfds:{name}': TFDS knows no dataset {name}") from error
    except (ValueError, AssertionError) as error:  # its words for a version or variant that there is not
        raise UserError(f"config.data.name='tfds:{name}': {str(error).splitlines()[0]}") from error
    if "train" not in builder.info.splits:
        raise UserError(f"config.data.name='tfds:{name}': not prepared in {place}; {prepare}")
    features = builder.info.features
    if "image" not in features or None in (features["image"].shape or (None,)):
        raise UserError(f"config.data.name='tfds:{name}': expected a feature 'image' of one fixed shape")
    labelled = "label" in features
    if labelled and (features["label"].shape != () or np.dtype(features["label"].np_dtype).kind not in "iu"):
        raise UserError(
            f"config.data.name='tfds:{name}': its labels are {features['label']}; expected class numbers, a ClassLabel "
            "or one integer an image"
        )

    def split(part: str) -> Split:
        try:
            records = builder.as_data_source(split=part)
        except (NotImplementedError, FileNotFoundError) as error:
            raise UserError(f"config.data.name='tfds:{name}': no array_record files in {place}; {prepare}") from error
        return Split(_TfdsImages(records, (len(records), *features["image"].shape)), labels(part) if labelled else None)

    def labels(part: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            records = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
            parts = (range(a, min(a + 1024, len(records))) for a in range(0, len(records), 1024))
            return np.array([record["label"] for part in parts for record in records.__getitems__(part)], np.int32)

        return read

    there = {part: split(part) for part in ("train", "validation", "test") if part in builder.info.splits}
    names = (
        tuple(features["label"].names) if labelled and isinstance(features["label"], tfds.features.ClassLabel) else None
    )
    return Source(f"tfds:{name}", there["train"], there.get("test"), names, validation=there.get("validation"))
