"""How far this project's numbers are from the TensorFlow 2 reference's.

A recording is an .npz file with parameters, batches, noise and results of the
reference; tests/parity/README.md explains the arrays. ``compare_file`` computes the
same with this project's code and returns one row per quantity.
"""

from recordings.files import FILES, Setup, compare_file, find_files
from recordings.rows import Row

__all__ = ["FILES", "Row", "Setup", "compare_file", "find_files"]
