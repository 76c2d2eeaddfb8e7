import numpy as np
import pytest

from ddm_embed.errors import UserError
from ddm_embed.probe import atlas
from ddm_embed.runs.files import read_arrays
from ddm_embed.runs.outcome import ProbeFolder


def blobs(number=90, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, number)
    return (4 * rng.normal(size=(3, dim))[labels] + rng.normal(size=(number, dim)) + 2).astype(np.float32), labels


def test_principal_components_are_those_of_the_singular_value_decomposition():
    x, labels = blobs()
    found = atlas.maps(x, labels, seed=0)
    standard = (x - x.mean(0)) / x.std(0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    reference = left[:, :2] * values[:2]
    signs = np.sign(np.sum(reference * found["pca"], axis=0))
    np.testing.assert_allclose(found["pca"], reference * signs, atol=2e-4)
    np.testing.assert_allclose(found["explained"], values[:2] ** 2 / np.sum(values**2), rtol=1e-4)
    np.testing.assert_array_equal(found["labels"], labels[found["positions"]])


def test_tsne_starts_from_the_joint_probabilities_of_scikit_learn():
    from sklearn.manifold._t_sne import _joint_probabilities
    from sklearn.metrics import pairwise_distances
    from sklearn.preprocessing import StandardScaler

    x, _ = blobs()
    ours, theirs = atlas.standardised(x), StandardScaler().fit_transform(x)
    p = [_joint_probabilities(pairwise_distances(z, squared=True).astype(np.float32), 29.0, 0) for z in (ours, theirs)]
    np.testing.assert_allclose(*p, rtol=1e-3, atol=1e-9)


def test_tsne_is_scikit_learns_on_the_standardised_features():
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    x, _ = blobs()
    found = atlas.maps(x, None, seed=3)
    with threadpool_limits(1):
        reference = TSNE(init="pca", perplexity=89 / 3, random_state=3).fit_transform(atlas.standardised(x))
    assert found["perplexity"] == pytest.approx(89 / 3)
    np.testing.assert_allclose(found["tsne"], reference, rtol=1e-3, atol=1e-3)


def test_neighbours_are_scikit_learns_by_cosine_of_centred_features():
    from sklearn.neighbors import NearestNeighbors

    x, _ = blobs(200)
    fit, queries = x[:160], x[160:]
    reference = NearestNeighbors(n_neighbors=7, metric="cosine").fit(fit - fit.mean(0))
    _, positions = reference.kneighbors(queries - fit.mean(0))
    np.testing.assert_array_equal(atlas.neighbours(fit, queries, 7), positions)


def test_a_map_of_many_images_is_of_a_seeded_2000(monkeypatch):
    monkeypatch.setattr(atlas, "_tsne", lambda x, perplexity, seed: x[:, :2])
    x, _ = blobs(3000, 4)
    found = atlas.maps(x, None, seed=0)
    assert len(found["positions"]) == len(found["pca"]) == 2000 == len(set(found["positions"]))
    assert "2000 of 3000" in str(found["note"]) and found["perplexity"] == 30
    np.testing.assert_array_equal(found["positions"], atlas.maps(x, None, seed=0)["positions"])


@pytest.mark.parametrize("number", [2, 3])
def test_of_too_few_images_there_is_no_tsne_but_a_note(number):
    found = atlas.maps(blobs(number)[0], None, seed=0)
    assert "tsne" not in found and "no t-SNE" in str(found["note"]) and found["pca"].shape == (number, 2)


@pytest.mark.parametrize("dim", [1, 2])
def test_four_images_of_few_dimensions_have_a_finite_map(dim):
    found = atlas.maps(blobs(4, dim)[0], None, seed=0)
    assert np.all(np.isfinite(found["pca"])) and np.all(np.isfinite(found["tsne"]))


def test_features_that_allow_no_map_are_refused():
    x, _ = blobs(20)
    with pytest.raises(UserError, match="2 images or more"):
        atlas.maps(x[:1], None, seed=0)
    with pytest.raises(UserError, match="same for every image"):
        atlas.maps(np.ones((20, 3), np.float32), None, seed=0)
    x[3, 1] = np.nan
    with pytest.raises(UserError, match="1 of 20 images are not finite"):
        atlas.maps(x, None, seed=0)
    with pytest.raises(UserError, match="not finite"):
        atlas.neighbours(x, x, 3)
    with pytest.raises(UserError, match="1 to 20"):
        atlas.neighbours(blobs(20)[0], x[:1], 21)


@pytest.mark.parametrize("shape", [(8, 8, 1), (100, 50, 3), (10, 10, 4)])
def test_an_atlas_comes_back_from_its_file(tmp_path, shape):
    x, labels = blobs(40)
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    whole = atlas.make_map(x, images, labels, "z", 0.2, seed=0) | atlas.make_strips(
        {0.1: (x[:30], x[30:34]), 0.5: (x[:30], x[30:34])},
        images[:30],
        images[30:34],
        (labels[:30], labels[30:34]),
        "z",
        5,
    )
    ProbeFolder(tmp_path).write({}, {}, whole)
    found = read_arrays(tmp_path / "atlas.npz", "")
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["strips/images"].shape[:3] == (2, 4, 5) and max(found["strips/images"].shape[3:5]) <= 64
    assert max(found["map/thumbnails"].shape[1:3]) <= 32 and found["map/thumbnails"].shape[3] in (1, 3)
