"""All fault tests, in their long form: the seed in; their verdicts, summed, as the last line out.

FAULTS_SEED=1 FAULTS_SECONDS=60 python -m tests.faults [pytest's arguments]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = str(Path(__file__).parent.relative_to(Path.cwd()))
COUNTED = ("accepted", "final", "lost", "stuck", "doubled", "extra_runs", "faults")
NEVER = ("lost", "stuck", "doubled")


def total(lines: str) -> dict[str, int]:
    """Sum the verdicts, one a line."""
    sums = Counter[str]()
    for line in lines.splitlines():
        sums.update(json.loads(line))
    return {name: sums[name] for name in COUNTED}


def main() -> int:
    """Return 0 when every test passed, and nothing was lost, stuck or doubled in any."""
    seed = os.environ.get("FAULTS_SEED") or str(int.from_bytes(os.urandom(4)))
    print(f"FAULTS_SEED={seed}", flush=True)
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as verdicts:
        env = {**os.environ, "FAULTS_LONG": "1", "FAULTS_SEED": seed, "FAULTS_VERDICTS": verdicts.name}
        command = [sys.executable, "-m", "pytest", HERE, "-n", "3", "--dist", "loadfile", *sys.argv[1:]]
        failed = subprocess.run(command, env=env, check=False).returncode
        sums = total(verdicts.read())
    if failed:
        print(f"repeat with FAULTS_SEED={seed}")
    print(json.dumps(sums), flush=True)
    return 1 if failed or any(sums[name] for name in NEVER) or sums["accepted"] != sums["final"] else 0


if __name__ == "__main__":
    sys.exit(main())
