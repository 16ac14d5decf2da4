"""What detectron2's setup.py asks of torch, for a build that compiles nothing.

setup.py imports torch to find its compilers, so building it takes a torch of the right version
in the build environment: gigabytes, to copy Python files. The backend puts this file's folder
first on the path of that one build. It is never installed.
"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from setuptools import Extension
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """In the compiler's place: takes along the model zoo's configs.

    setup.py looks for them where a git checkout has them; the sdist has them in their final place.
    """

    def run(self):
        configs = Path("detectron2", "model_zoo", "configs")
        shutil.copytree(configs, Path(self.build_lib, configs), dirs_exist_ok=True)


def extension(name, sources, **_):
    return Extension(name, [])


__version__ = "2.0"
version = SimpleNamespace(hip=None)
cuda = SimpleNamespace(is_available=lambda: False)
cpp_extension = SimpleNamespace(
    CUDA_HOME=None,
    ROCM_HOME=None,
    CppExtension=extension,
    CUDAExtension=extension,
    BuildExtension=BuildExtension,
)
utils = SimpleNamespace(cpp_extension=cpp_extension)
sys.modules["torch.utils"] = utils
sys.modules["torch.utils.cpp_extension"] = cpp_extension
