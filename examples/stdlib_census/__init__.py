"""A census of Python's standard library, one task a file: the main job, on real input."""
