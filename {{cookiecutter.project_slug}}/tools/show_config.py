#!/usr/bin/env python
"""
Print what a config and its overrides come to, as YAML:

    python tools/show_config.py --config-file configs/faster_rcnn_R_50_FPN.py train.max_iter=1000

Values are those that training has: of its fold, and with the learning rate for its batch.
"""

import argparse
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import find_config
from detection.utils.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """
    Print the config that the command line, or `argv`, names.

    Raises:
        UserError: there is no such config, or an override does not fit it.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train_net.py")
    args = parser.parse_intermixed_args(argv)
    find_config(args.config_file)
    from detection.config import load_config, plain  # slow to import

    config = plain(load_config(args.config_file, args.overrides))
    sys.stdout.reconfigure(encoding="utf-8")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None))


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
