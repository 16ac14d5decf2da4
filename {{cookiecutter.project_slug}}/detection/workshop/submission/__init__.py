"""Writes, reads and checks submissions."""
