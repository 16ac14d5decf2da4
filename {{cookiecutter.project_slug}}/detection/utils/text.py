"""Text as people read it."""

LONGEST_NAME = 4096  # characters of a class's or a file's name; no file system takes more
