"""The test suite. A package, so that no installed `tests` can come before it."""
