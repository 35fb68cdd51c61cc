"""The README's quick start, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.probes import free_port
from tests.support.spawn import TACOQ, spawn

README = (Path(__file__).parents[2] / "README.md").read_text()
QUICK_START = README[README.index("## Quick start") : README.index("## From this repository")]


def block(language: str, containing: str) -> str:
    """Return the one code block of the quick start in `language` with `containing` in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", QUICK_START, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


@pytest.mark.timeout(90)
def test_quick_start(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(block("python", "@worker.task"))
    (tmp_path / "publish.py").write_text(block("python", "asyncio.run(main())"))
    console = block("console", "publish.py").splitlines()
    port = free_port()
    env = {"TACOQ_PORT": str(port), "TACOQ_MANAGER_URL": f"http://127.0.0.1:{port}"}
    dev = block("sh", "tacoq dev").split()
    assert dev[0] == "tacoq"
    with spawn(TACOQ, *dev[1:], cwd=tmp_path, env=env) as process:
        process.wait_for_log("TacoQ runs", 40)

        def run(*command: str) -> list[str]:
            done = subprocess.run(
                command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        assert console[0] == "$ python publish.py"
        last = console.index('$ tacoq publish add \'{"x": 2, "y": 3}\' --wait')
        assert run(sys.executable, "publish.py") == console[1:last]
        assert run(TACOQ, "publish", "add", '{"x": 2, "y": 3}', "--wait") == console[last + 1 :]
        process.terminate()
        assert process.wait() == 0
