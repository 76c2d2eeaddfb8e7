#!/usr/bin/env python3
"""Fills in a JobSet template and prints it. launch/gke calls it; see there for the options.

The template is read as YAML and its placeholders are replaced as values, so that no argument can change its structure.
"""

import argparse
import math
import re
import sys
from pathlib import Path

try:
    import yaml
except ImportError:
    sys.exit("error: PyYAML is missing; use the Python in which ddm_embed is installed")

HERE = Path(__file__).parent
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 40  # a pod's is NAME-workers-0-INDEX-SUFFIX, of 63 characters at most


def main() -> None:
    try:
        print(yaml.safe_dump(render(parse(sys.argv[1:])), sort_keys=False, width=1000), end="")
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--accelerator", required=True)
    parser.add_argument("--topology", default="")
    parser.add_argument("--chips", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--restarts", type=int, required=True)
    parser.add_argument("--grace", type=int, required=True)
    parser.add_argument("--service-account", default="")
    parser.add_argument("--spot", action="store_true")
    cut = arguments.index("--")
    options = parser.parse_args(arguments[:cut])
    options.program = arguments[cut + 1 :]
    return options


def render(options: argparse.Namespace) -> dict:
    """The JobSet of these options; a topology such as 4x4 makes it one of TPUs.

    Raises:
      ValueError: an option cannot be meant.
    """
    for option, value in (("--name", options.name), ("--namespace", options.namespace)):
        if not NAME.fullmatch(value) or len(value) > LONGEST_NAME:
            raise ValueError(
                f"{option} {value}: lower-case letters, digits and -, {LONGEST_NAME} at most, are expected"
            )
    processes = tpu_nodes(options.topology, options.chips) if options.topology else options.nodes
    if processes < 1:
        raise ValueError(f"--nodes {processes}: at least 1")
    template = HERE / ("jobset-tpu.yaml" if options.topology else "jobset-gpu.yaml")
    # Kubernetes would expand $(NAME) in a command, and takes $$ for $.
    program = [word.replace("$(", "$$(") for word in options.program]
    values = {
        "NAME": options.name,
        "NAMESPACE": options.namespace,
        "IMAGE": options.image,
        "ACCELERATOR": options.accelerator,
        "TOPOLOGY": options.topology,
        "CHIPS": options.chips,
        "PROCESSES": processes,
        "RESTARTS": options.restarts,
        "GRACE": options.grace,
        "PROGRAM": [*program, *(["--num_processes", str(processes)] if processes > 1 else [])],
    }
    jobset = filled(yaml.safe_load(template.read_text()), values)
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    for variable in pod["containers"][0]["env"]:
        if "value" in variable:
            variable["value"] = str(variable["value"])  # Kubernetes takes nothing but strings here
    if options.spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        pod.setdefault("tolerations", []).append(spot)
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    return jobset


def tpu_nodes(topology: str, chips: int) -> int:
    """The virtual machines of a slice, of so many chips each."""
    if not re.fullmatch(r"\d+x\d+(x\d+)?", topology):
        raise ValueError(f"--topology {topology}: a form such as 4x4 or 2x2x4 is expected")
    total = math.prod(map(int, topology.split("x")))
    if chips < 1 or total % chips:
        raise ValueError(f"--chips {chips} does not divide the {total} chips of --topology {topology}")
    return total // chips


def filled(node, values: dict):
    """The tree with every scalar that is a placeholder replaced by its value."""
    if isinstance(node, dict):
        return {key: filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, values) for value in node]
    return values.get(node, node) if isinstance(node, str) else node


if __name__ == "__main__":
    main()
