"""Builds models: backbones, heads, freezing."""
