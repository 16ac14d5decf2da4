"""Kaggle's official command, whose errors become one line each."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

from detection.utils.errors import UserError

INSTALL = "`uv tool install kaggle --with six` (or `pip install kaggle six`) installs it"
NO_KEY = ("authentication required", "must authenticate", "kaggle.json", "401")
NOT_FOUND = ("not found", "could not find", "404")
FORBIDDEN = ("accept", "don't have access", "forbidden", "403")


def run_kaggle(*args: str, competition: str = "") -> str:
    """
    Run `kaggle` with some arguments; progress that it shows goes on to stderr.

    Args:
        args: of the command.
        competition: is named in errors.

    Returns:
        What it prints.

    Raises:
        UserError: it is not installed, has no key, the competition's rules are not accepted, there
            is no such competition, or another reason of its own.
    """
    command = shutil.which("kaggle")
    if command is None:
        raise UserError(f"Kaggle's command is not installed; {INSTALL}")
    try:
        process = subprocess.Popen(
            [command, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as e:
        raise UserError(f"{command}: does not start ({e.strerror or e}); {INSTALL}") from e
    output, has_progress = "", False
    with process:
        for line in process.stdout:  # a carriage return ends a line too
            if "%|" in line:
                has_progress = True
                print(f"\r{line.strip()}", end="", file=sys.stderr, flush=True)
            else:
                output += line
    if has_progress:
        print(file=sys.stderr)
    if process.returncode:
        raise UserError(_explain(output, competition))
    return output


def _explain(output: str, competition: str) -> str:
    text = output.casefold()
    if "modulenotfounderror" in text:
        return f"Kaggle's command does not start ({output.strip().splitlines()[-1]}); {INSTALL}"
    if _has(text, NO_KEY):
        return (
            "Kaggle's command has no valid key; `kaggle auth login`, or put a token from "
            "kaggle.com/settings/api into KAGGLE_API_TOKEN"
        )
    if competition and _has(text, FORBIDDEN):
        return (
            f"{competition}: Kaggle refuses it; accept the rules at "
            f"https://www.kaggle.com/competitions/{competition}/rules, and try again"
        )
    if competition and _has(text, NOT_FOUND):
        return (
            f"{competition}: no such competition; give the part of its address after "
            "/competitions/ as COMPETITION"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"kaggle: {lines[-1] if lines else 'failed without a reason'}"


def _has(text: str, parts: Sequence[str]) -> bool:
    return any(part in text for part in parts)


def user_name() -> str | None:
    """The name of the user whose key is configured; None if nobody knows."""
    if shutil.which("kaggle") is None:
        return None
    try:
        lines = run_kaggle("config", "view").splitlines()
    except UserError:
        return None
    names = [line.partition("username:")[2].strip() for line in lines if "username:" in line]
    return names[0] if names and names[0] not in ("", "None") else None
