"""Names: text of a query in, the same out when it can be such a name, else a ValueError that shows it."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from tacoq_protocol.http import FAIRNESS_KEY_PATTERN, KIND_PATTERN, QUEUE_PATTERN


def _fitting(pattern: str, name: str) -> str:
    if re.match(pattern, name) is None:
        raise ValueError(f"{name!r} is no such name")
    return name


Kind = Annotated[str, AfterValidator(partial(_fitting, KIND_PATTERN))]
QueueName = Annotated[str, AfterValidator(partial(_fitting, QUEUE_PATTERN))]
FairnessKey = Annotated[str, AfterValidator(partial(_fitting, FAIRNESS_KEY_PATTERN))]
