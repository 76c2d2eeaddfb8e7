import numpy as np
import pytest
from conftest import tiny_config

from ddm_embed.data.sources import open_source
from ddm_embed.data.splits import read_labels
from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError

IMAGES = np.zeros((6, 8, 8, 1), np.uint8)


def source(values):
    return Source("arrays:x", Split(IMAGES, None if values is None else lambda: np.array(values, np.int32)), None, None)


def test_classes_are_those_that_occur_wherever_they_begin():
    found = read_labels(source([7, 3, 3, 40, 7, 40]), "supervised")
    assert found.values == (3, 7, 40) and found.index.tolist() == [1, 0, 0, 2, 1, 2]
    assert found.index.dtype == np.int32


def test_the_digits_are_ten_classes():
    found = read_labels(open_source(tiny_config()), "supervised")
    assert found.values == tuple(range(10)) and found.index.shape == (1297,)


@pytest.mark.parametrize(("values", "message"), [(None, "has no labels to learn"), ([4] * 6, "is of class 4")])
def test_what_cannot_be_classified_is_refused(values, message):
    with pytest.raises(UserError, match=rf"config\.objective\.name=supervised: .*{message}"):
        read_labels(source(values), "supervised")
