"""The probe's default: ridge and nearest neighbours on every feature at thirteen noise levels.

python -m ddm_embed.probe --workdir runs/digits --config configs/probe.py
"""

from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `name=NAME`, the folder of the results in W/probe."""
    arg = config_lib.parse_arg(arg, name="linear")
    c = config_lib.probe_default()
    c.name = arg["name"]
    return c
