"""Paths, files, errors, images and text: what every other room uses."""
