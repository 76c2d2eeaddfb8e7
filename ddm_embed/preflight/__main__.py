"""Compiles a run's training step for chips that need not be there, and says whether it fits and how fast it can be.

    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 [--mesh data=64,fsdp=4] [--config.FIELD=VALUE ...]
    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 --sweep [--chips 64,256]
    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 --scaling FILE.png

The topology is a TPU slice, or `here` for this machine's devices. Slices are compiled for by libtpu, on any machine.
Exit codes: 0 the step fits, 1 it does not, or an error.
"""

import sys
from functools import partial
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError

if TYPE_CHECKING:
    from ddm_embed.preflight.sweep import Slice

FLAGS = cli.new_flags()
_string, _bool = (partial(define, flag_values=FLAGS) for define in (flags.DEFINE_string, flags.DEFINE_bool))
_string("topology", None, "A TPU slice, such as v5e:16x16; or here, this machine's devices.")
_string("mesh", None, "Sizes of the mesh's axes, such as data=64,fsdp=4; the config's by default.")
_string("image", None, "HEIGHTxWIDTHxCHANNELS of the images, 1xLENGTHxCHANNELS of sequences; else the dataset's.")
_bool("sweep", False, "Tabulate smaller slices and other meshes too, and name the best.")
flags.DEFINE_list(
    "chips", [], "Sizes of the slices that --sweep tries; by default a quarter of it, and all.", flag_values=FLAGS
)
_bool("mend", False, "Where the step does not fit, compile changes in turn until one does.")
_string("scaling", None, "Draw operations and traffic of a chip over 1 to all chips; a PNG.")
_string("json", None, "Write the estimates to this file too.")


def body(given: flags.FlagValues, config: ConfigDict) -> int:
    from ddm_embed.preflight import report, sweep

    if not given.topology:
        raise UserError("--topology is missing; give a TPU slice, such as v5e:16x16, or here")
    if sum((given.sweep, bool(given.scaling), given.mend)) > 1:
        raise UserError("--sweep, --scaling and --mend are three questions; ask one")
    if given.mesh:
        config.update_from_flattened_dict(report.parse_mesh(given.mesh))
    largest = None if given.topology == sweep.HERE else sweep.parse(given.topology)
    if largest:
        sweep.find_compiler()
        with report.for_absent_chips():
            return answer(given, config, largest)
    if given.sweep or given.scaling:
        raise UserError(f"--topology={sweep.HERE} has one size; --sweep and --scaling take a TPU slice")
    return answer(given, config, None)


def answer(given: flags.FlagValues, config: ConfigDict, largest: "Slice | None") -> int:
    """Prints the answer to the question that was asked; the exit code. largest: None is this machine."""
    from ddm_embed import methods
    from ddm_embed.preflight import report
    from ddm_embed.preflight.compiled import here
    from ddm_embed.runs import files
    from ddm_embed.validate import validate

    validate(config)
    methods.of(config).check_named_code(config)
    shape = report.image_shape(config, given.image)
    for path in filter(None, (given.scaling, given.json)):
        files.place(path).parent.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be, not after the work

    if given.scaling:
        rows = report.scale(config, shape, largest, files.place(given.scaling))
    elif given.sweep:
        rows = report.sweep_slices(config, shape, largest, given.chips)
    else:
        rows = [report.one(config, shape, report.machine_of(largest) if largest else here(), given.mend)]
    if given.json:
        files.place(given.json).write_text(report.to_json(rows))
    return 0 if any(row.fits for row in rows) else 1


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body, config_lib.default, config_required=True)


if __name__ == "__main__":
    sys.exit(main())
