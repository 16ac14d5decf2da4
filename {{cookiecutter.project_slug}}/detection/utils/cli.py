"""How every command ends, and what their command lines have in common."""

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from detection.utils.errors import UserError

DEFAULT_CONFIG = "configs/faster_rcnn_R_50_FPN.py"


def tool(main: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
    """
    Decorate the `main` of a command, so that it returns an exit status.

    Args:
        main: takes the arguments, those of the command line by default; returns 1 if it has found
            something wrong, else 0 or None; raises UserError for a user's mistake.

    Returns:
        `main`, with the errors and the statuses of `exit_status`.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        return exit_status(lambda: main(argv))

    return wrapped


def exit_status(main: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """
    Run a command, and turn what ends it early into at most one line on stderr.

    Args:
        main: the command; returns its status.
        interrupted: what to say after Ctrl-C.

    Returns:
        What `main` returns, 0 for None; 2 after a UserError, 130 after Ctrl-C, and 141 if nobody
        reads the output any more, as after `| head`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `early_args`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    print_any_name()
    try:
        try:
            return main() or 0
        finally:
            print(end="", flush=True)
    except UserError as e:
        complain(str(e))
        return 2
    except KeyboardInterrupt:
        complain(interrupted)
        return 130
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:
            # else Python fails again when it flushes the rest at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        raise  # another pipe


def print_any_name() -> None:
    """Let stdout and stderr escape the characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed
            stream.reconfigure(errors="backslashreplace")


def complain(message: str) -> None:
    """Print a line on stderr that begins with the command's name."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


def command_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose --help shows `doc`, the command's docstring, as it is."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config_file(
    parser: argparse.ArgumentParser, purpose: str = "what to train, and how", default: str = ""
) -> None:
    """Add --config-file, which `find_config` finds; `purpose` is its help."""
    shown = " (default: %(default)s)" if default else ""
    parser.add_argument("--config-file", metavar="FILE", default=default, help=purpose + shown)


def unit_interval(text: str) -> float:
    """A number from 0 to 1; argparse shows the error of another text."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"has to be a number from 0 to 1, not {text!r}")


def positive_int(text: str) -> int:
    """A whole number from 1 up; argparse shows the error of another text."""
    return _whole_number(text, 1)


def non_negative_int(text: str) -> int:
    """A whole number from 0 up; argparse shows the error of another text."""
    return _whole_number(text, 0)


def _whole_number(text: str, lowest: int) -> int:
    with suppress(ValueError):
        if int(text) >= lowest:
            return int(text)
    raise argparse.ArgumentTypeError(f"has to be a whole number from {lowest} up, not {text!r}")


def named_path(text: str) -> tuple[str, str]:
    """
    Split NAME=PATH into the name and the path; without a name, both are the path.

    The equals sign of a folder, as in output/lr=0.01/val.json, or of an existing file is part of
    the path.
    """
    name, equals, path = text.partition("=")
    if not equals or "/" in name or os.sep in name or os.path.exists(text):
        return text, text
    return name or path, path
