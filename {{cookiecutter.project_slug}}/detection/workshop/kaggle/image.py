"""The packages of the machine that a folder is made for, by default Kaggle's: image.txt."""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from detection.utils.errors import UserError

KAGGLE = Path(__file__).with_name("image.txt")
PYTHON = re.compile(r"#\s*python\s+(3\.\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Image:
    """
    Attributes:
        python: its version, "3.12".
        packages: {name, as `canonicalize_name` writes it: version}.
    """

    python: str
    packages: dict[str, Version]

    def has(self, name: str, specifier: SpecifierSet) -> bool:
        """Whether a package is there, at a version within some bounds."""
        version = self.packages.get(canonicalize_name(name))
        return version is not None and specifier.contains(version, prereleases=True)

    def environment(self) -> dict[str, str]:
        """What the markers of requirements ask for."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


def read_image(path: str | Path = KAGGLE) -> Image:
    """
    Read the output of `pip freeze`, with a line `# python 3.12`; what is no `name==version`, such
    as a package from a URL, is passed over.

    Raises:
        UserError: it cannot be read, lists nothing, or does not say which Python.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({e}); --image takes a `pip freeze`") from e
    packages = {}
    for line in text.splitlines():
        name, equals, version = line.strip().partition("==")
        try:
            if equals and not name.startswith("#"):
                packages[canonicalize_name(name)] = Version(version)
        except InvalidVersion:
            continue
    python = PYTHON.search(text)
    if not packages or not python:
        missing = "no name==version" if python else "no line `# python 3.12`"
        raise UserError(f"{path}: has {missing}; --image takes a `pip freeze` with that line")
    return Image(python[1], packages)
