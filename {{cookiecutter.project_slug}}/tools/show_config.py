#!/usr/bin/env python
"""
Print a config with its overrides applied, as YAML:

    python tools/show_config.py --config-file configs/faster_rcnn_R_50_FPN.py train.max_iter=1000

The values are those of the training: of its fold, with the learning rate for its batch.
"""

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.arguments import find_config
from detection.utils.cli import add_config_file, command_parser, tool


@tool
def main(argv: list[str] | None = None) -> None:
    """Print the config."""
    parser = command_parser(__doc__)
    add_config_file(parser, "what to print")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train_net.py")
    args = parser.parse_intermixed_args(argv)
    find_config(args.config_file)
    from detection.config import load_config, to_plain  # slow to import

    config = to_plain(load_config(args.config_file, args.overrides))
    is_utf8 = "utf" in sys.stdout.encoding.lower()  # else YAML's own escapes
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=is_utf8, default_flow_style=None))


if __name__ == "__main__":
    sys.exit(main())
