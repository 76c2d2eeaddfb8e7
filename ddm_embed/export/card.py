"""The model card of an export: what it is, how to use it, what was measured of it by which probes, and what was not."""

from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import jax

from ddm_embed import config as config_lib
from ddm_embed import methods
from ddm_embed.compare.runs import Measure, Result, measures, read_runs
from ddm_embed.errors import UserError
from ddm_embed.features.choice import Choice
from ddm_embed.features.run import Run
from ddm_embed.results import encoder_key, main_protocol
from ddm_embed.runs.outcome import ProbeFolder, probes

CARD = Template("""---
license: $license
library_name: ddm_embed
pipeline_tag: $pipeline
tags:
$tags
---

# $name

Turns $kind into embeddings$levels.
Trained and exported with `ddm_embed`, in JAX and Flax.

$facts

## Use it with ddm_embed

```python
from ddm_embed import Embedder

embedder = Embedder.from_export("DIR")     # this folder
embeddings = embedder.transform($argument)  # [n, $dim]
```

From the shell, a whole folder: `python -m ddm_embed.embed --workdir DIR --images PATH --out embeddings.npz`.

## Use it without ddm_embed

`pip install 'jax>=$jax' safetensors flatbuffers numpy`, then `python example.py $file`, or:

```python
import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

weights = jax.device_put(load_file("weights.safetensors"))
with open("embed.jax_export", "rb") as file:
    program = jax.jit(export.deserialize(bytearray(file.read())).call)
embeddings = program(weights, $argument, np.float32($t))  # $dtype [n, $shape] -> float32 [n, $dim]
```

The program gives `$feature` alone, and takes any number of $kind and any t; it is compiled once for each number of
$kind. It was lowered for CPUs, NVIDIA GPUs (`jax[cuda13]`) and TPUs, and computes in float32 on all three.$standardise

## Measured

$measured

## Limits

$limits

## Files

| file | what |
| --- | --- |
| `weights.safetensors` | averaged (EMA) parameters of all networks of the run, float32 |
| `embed.jax_export` | the program above, by `jax.export` of JAX $jax |
| `config.json` | the exact config of the run |
| `export.json` | what goes in and comes out, and the SHA-256 of every other file and of itself |
| `example.py` | the program in use |

`Embedder.from_export` refuses a folder in which one of these files, or this card, has changed by a byte.
""")


class Measured(NamedTuple):
    """results: of the probes that can be read, the default's first. left_out: why others are not, a line each."""

    results: list[Result]
    left_out: list[str]


class Documents(NamedTuple):
    """What a run says of itself: data.json, versions.json ({} where there is none) and its probes' results."""

    data: dict[str, Any]
    versions: dict[str, Any]
    measured: Measured


def card(run: Run, choice: Choice, dim: int, documents: Documents, license_name: str) -> str:
    """README.md of an export.

    Args:
      run: the encoder. choice: what the program gives. dim: its entries. documents: the run's.
      license_name: as a hub names it.
    """
    sequences, timeless = run.scale is not None, run.timeless
    one = "sequence" if sequences else "image"
    return CARD.substitute(
        license=license_name,
        pipeline="feature-extraction" if sequences else "image-feature-extraction",
        name=run.config.name,
        kind="sequences" if sequences else "images",
        levels="" if timeless else f", at any noise level t between 0 (the clean {one}) and 1 (noise)",
        tags="\n".join(f"- {tag}" for tag in ("jax", "flax", "embeddings", *methods.of(run.config).tags)),
        facts=_rows(_facts(run, choice, dim, documents.data, documents.versions)),
        argument="sequences" if sequences else "images",
        file="sequences.npy" if sequences else "images.npy",
        dim=dim,
        t=f"{choice.t:g}",
        dtype=run.dtype,
        shape=", ".join(map(str, run.image_shape)),
        feature=choice.feature,
        standardise=STANDARDISE if sequences else "",
        measured=_measured(run, choice, documents.measured),
        limits="\n".join(f"- {text}" for text in _limits(run, choice, documents.measured)),
        jax=jax.__version__,
    )


STANDARDISE = (
    "\nIts sequences are float32 [n, 1, length, channel], standardised by `scale` in `export.json`: (x - mean) / std "
    "of each\nchannel. `example.py` does that; `Embedder` does it by itself."
)


def _facts(run: Run, choice: Choice, dim: int, data: dict[str, Any], versions: dict[str, Any]) -> list[tuple[str, str]]:
    config, (height, width, channel) = run.config, run.image_shape
    entries = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    if run.scale is not None:
        takes = f"sequences of {width} samples and {channel} channel{'s' * (channel > 1)}"
    else:
        takes = f"images of {height}x{width} pixels, {channel} channel{'s' * (channel > 1)}, uint8"
    return [
        ("takes", takes),
        ("gives", f"`{choice.feature}`, {dim} float32 numbers, at t = {choice.t:g} unless another is asked for"),
        ("chosen by", choice.by),
        ("other features", f"with `ddm_embed`: {', '.join(f'`{name}`' for name in run.names)}"),
        ("method", methods.of(config).card(config)),
        ("trained on", f"{data.get('train_images', 'an unknown number')} {dataset(config.data.name)}"),
        ("trained for", f"{run.step} steps of {config.train.batch_size}, seed {config.train.seed}"),
        ("on", _machine(versions)),
        ("parameters", f"{entries:,}"),
        ("fingerprint", f"`{run.fingerprint()}`"),
    ]


def dataset(name: str) -> str:
    """A dataset's name without the folders above it, which say more of the machine than of the data."""
    kind, _, path = name.partition(":")
    if kind not in ("folder", "arrays"):
        return f"images of `{name}`"
    what = "images of the folder" if kind == "folder" else "rows of the arrays in"
    return f"{what} `{path.rstrip('/').rpartition('/')[2]}`"


def _machine(versions: dict[str, Any]) -> str:
    devices = versions.get("devices") or ["a machine that was not noted"]
    packages = versions.get("packages") or {}
    told = ", ".join(f"{name} {packages[name]}" for name in ("ddm_embed", "jax", "flax") if packages.get(name))
    return "; ".join(filter(None, (f"{len(devices)} x {devices[0]}", told, f"commit {_commit(versions)}")))


def _commit(found: dict[str, Any]) -> str:
    if not found.get("commit"):
        return "unknown"
    return f"{found['commit'][:12]}" + (" with changes since" if found.get("dirty") else "")


def _measured(run: Run, choice: Choice, measured: Measured) -> str:
    parts = [_probe(result, run, choice) for result in measured.results]
    if not parts:
        parts = ["**Nothing was measured of this run**: what the embeddings are worth is not known."]
    return "\n\n".join(parts + [f"Left out: {text}." for text in measured.left_out])


def _probe(result: Result, run: Run, choice: Choice) -> str:
    found, manifest, protocol = result.results, result.manifest, result.results["protocol"] or {}
    lines = [f"### Probe `{result.probe}`", ""]
    if found["checkpoint_step"] != run.step:
        lines += [f"**Of step {found['checkpoint_step']}; the weights here are of step {run.step}.**", ""]
    lines += [
        "| protocol | feature read | t | test accuracy | pixels, same protocol |",
        "| --- | --- | --- | --- | --- |",
    ]
    for own, pixels in own_and_baselines(result):
        deviation = spread(result, own.protocol)
        accuracy = f"{own.accuracy:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        feature, t = own.selected.get("feature"), own.selected.get("t")
        here = " (exported)" if (feature, t) == (choice.feature, choice.t) else ""
        lines.append(
            f"| {own.protocol} | {feature or 'several'}{here} | {'' if t is None else f'{t:g}'} | {accuracy} | "
            f"{'not measured' if pixels is None else f'{pixels.accuracy:.4f}'} |"
        )
    seen = held_out(result, choice.feature, choice.t)
    if seen:
        accuracies = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in seen.items())
        lines += [
            "",
            f"The exported `{choice.feature}` at t = {choice.t:g}, on held-out training images: {accuracies}.",
        ]
    else:
        lines += ["", f"The exported `{choice.feature}` at t = {choice.t:g} was not judged by this probe."]
    seeds = ", ".join(f"{name} {seed}" for name, seed in found["seeds"].items())
    draws = protocol.get("noise_draws")
    facts = [
        ("dataset", dataset(found["dataset"])),
        ("images", f"{protocol.get('training_images')} to fit, {protocol.get('test_images')} to test, one run"),
        ("±", f"over {draws} draws of the noise; not over training runs" if draws else "as the protocol says"),
        ("chosen by", protocol.get("selection", "")),
        ("seeds", seeds),
        ("hardware", manifest["device"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)),
        ("commit", _commit(manifest)),
        ("measured", manifest.get("created", "")),
    ]
    return "\n".join(
        [*lines, "", _rows(facts)] + [f"\nWarning of the probe: {text}" for text in found.get("warnings") or []]
    )


def _limits(run: Run, choice: Choice, measured: Measured) -> list[str]:
    config = run.config
    data = dataset(config.data.name)
    limits = [
        f"Trained on {data} alone. On anything else nothing is known of it; whatever was lopsided in them is in the "
        "embeddings too.",
        "Measured is what the tables above say, on one training run and its dataset's own test images. Not measured: "
        "other datasets, robustness, fairness, privacy (what an embedding gives away of its image, or the weights of "
        "the training images), and speed.",
        "This encoder is not told a noise level: t has no effect."
        if run.timeless
        else f"An embedding is of one noise level. t = {choice.t:g} is not the best for every use: low t tells fine "
        "differences, high t coarse ones; embeddings at different t are not comparable with one another.",
    ]
    if run.scale is None:
        limits.append(
            f"It takes {run.image_shape[0]}x{run.image_shape[1]} pixels. `Embedder` resizes other images and "
            "warns; what that costs was not measured."
        )
    if choice.feature.startswith("denoiser"):
        limits.append(
            "The feature is read off a noised image. The noise is drawn once and is the same for every image, so that "
            "results repeat; another draw gives other numbers."
        )
    if not measured.results:
        limits.append("Whether it beats the raw pixels is not known either.")
    limits.append(
        "Weights are safetensors and last. `embed.jax_export` does not: JAX promises to run it by versions released up "
        f"to six months after {jax.__version__}, which wrote it, and up to three weeks before. After that, export the "
        "run again; `ddm_embed` itself needs the weights and the config alone."
    )
    limits.append(
        "The same numbers come from one machine and one version; across devices expect differences of rounding. On "
        "GPUs and TPUs `Embedder` computes in bfloat16 unless the config says otherwise, the program in float32."
    )
    return [*limits, "The digests tell damage, not forgery."]


def _rows(facts: list[tuple[str, str]]) -> str:
    lines = ["| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in facts])


def read_measured(workdir: Path) -> Measured:
    """The results of all probes of a run; one that says nothing of its test images is left out with the reason."""
    results, left_out = [], []
    for probe in probes(workdir):
        try:
            results += read_runs([workdir], probe.name)
        except UserError as error:
            reason, _, _ = str(error).removeprefix(f"{probe.path}/").partition("; ")
            left_out.append(f"probe `{probe.name}`: {_without_labels(probe) or reason}")
    first = config_lib.probe_default().name
    return Measured(sorted(results, key=lambda result: result.probe != first), left_out)


def _without_labels(probe: ProbeFolder) -> str | None:
    """Why a probe ran no protocol, where it says so."""
    try:
        results = probe.read_results("probe again")
    except (OSError, UserError):
        return None
    return results["warnings"][0] if "protocols" not in results and results.get("warnings") else None


def best_level(measured: Measured, feature: str) -> tuple[float, str] | None:
    """(t, who found it): where the first probe's main protocol held a feature best, on held-out training images."""
    for result in measured.results:
        points = [
            point
            for point in result.results.get("profile") or []
            if point["feature"] == feature and point["t"] is not None
        ]
        points = [point for point in points if point["protocol"] == main_protocol(result.results)]
        if points:
            best = max(points, key=lambda point: point["validation_accuracy"])
            step = result.results["checkpoint_step"]
            return float(best["t"]), f"--feature; t by probe {result.probe} of step {step}"
    return None


def own_and_baselines(result: Result) -> list[tuple[Measure, Measure | None]]:
    """Every test accuracy of the run's features, each with that of the pixels under the same protocol, if measured."""
    found = measures(result)
    pixels = {measure.protocol: measure for measure in found if measure.baseline == "pixels"}
    return [(measure, pixels.get(measure.protocol)) for measure in found if measure.baseline is None]


def held_out(result: Result, feature: str, t: float) -> dict[str, float]:
    """{protocol: accuracy on held-out training images} of one feature at one level, where the profile has it."""
    points = result.results.get("profile") or []
    return {p["protocol"]: p["validation_accuracy"] for p in points if (p["feature"], p["t"]) == (feature, t)}


def spread(result: Result, protocol: str) -> float | None:
    """The standard deviation of a test accuracy over the draws that the protocol makes, where it makes several."""
    found = result.results["protocols"]
    encoders = {encoder_key(name): one["encoder"] for name, one in found.items() if one.get("encoder")}
    return (found | encoders)[protocol].get("test_accuracy_std")
