"""Lets detectron2 read and write text as UTF-8 on Windows too; its configs and logs are."""

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import NativePathHandler


class UTF8Handler(NativePathHandler):
    """Opens local files, text in UTF-8 and not in the machine's encoding, which lacks letters."""

    def _open(self, path, mode="r", buffering=-1, encoding=None, errors=None, **kwargs):
        if "b" not in mode:
            encoding = encoding or "utf-8"
            if encoding == "utf-8" and mode[0] != "r":
                errors = errors or "backslashreplace"  # half a surrogate pair, which it lacks
        return super()._open(path, mode, buffering, encoding, errors, **kwargs)


PathManager.register_handler(UTF8Handler())
