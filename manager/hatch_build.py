"""Build hook: the repository's alembic/ in, tacoq_manager/alembic/ in the wheel (alembic/ in the sdist) out."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class MigrationsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # the manager then reads the repository's own alembic/; a copy would go stale
        inside_sdist = Path(self.root) / "alembic"
        source = inside_sdist if inside_sdist.is_dir() else Path(self.root).parent / "alembic"
        target = "alembic" if self.target_name == "sdist" else "tacoq_manager/alembic"
        if source.is_dir():
            build_data["force_include"][str(source)] = target
