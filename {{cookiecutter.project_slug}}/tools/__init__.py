"""Commands over the library; a package, since upstream's detectron2 installs one of that name."""
