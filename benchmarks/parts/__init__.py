"""The parts of a run: servers and a plan in, records for the raw data out. Each can be run alone."""
