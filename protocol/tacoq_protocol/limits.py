"""Limits as they cross HTTP: what is set for a queue, and for a kind. None of them is a limit of one worker."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tacoq_protocol.rates import parse_rate

MOST_CONCURRENCY: Final = 1_000_000

FairnessKey = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,200}$")]
RateText = Annotated[str, AfterValidator(lambda text: parse_rate(text).text)]
Concurrency = Annotated[int, Field(strict=True, ge=1, le=MOST_CONCURRENCY)]
Weight = Annotated[int, Field(strict=True, ge=1, le=1_000)]


class QueueLimits(BaseModel):
    """Limits of a queue. A fairness key of weight 3 is served three tasks where others, of weight 1, are served one."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer manager may say more, here and in the database

    concurrency: Concurrency | None = Field(None, description="Tasks released at once")
    rate: RateText | None = Field(None, description='Releases, as in "100/s"')
    weights: dict[FairnessKey, Weight] = Field({}, max_length=1_000, description="Of fairness keys; of others it is 1")


class KindLimits(BaseModel):
    """Limits of a kind. What is None is not limited; in an override it is as the code says."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    concurrency: Concurrency | None = Field(None, description="Tasks released at once")
    rate: RateText | None = Field(None, description='Releases, as in "100/s"')
    max_per_key: Concurrency | None = Field(None, description="Tasks of one fairness key released at once")
    rate_per_key: RateText | None = Field(None, description="Releases of one fairness key")


class SetQueueLimits(QueueLimits):
    """Body of `PUT /v1/queues/{name}/limits`: all that is to hold for the queue; what is left out or null does not.

    Of `PATCH`: what is to change. What is left out stays, null does not hold any more, nor does a weight of 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def over(self, old: QueueLimits) -> QueueLimits:
        """Return `old` with what was given changed. Raises ValidationError when both together are too much."""
        weights = {key: weight for key, weight in (old.weights | self.weights).items() if weight != 1}
        given = self.model_dump(exclude_unset=True)
        return QueueLimits.model_validate(old.model_dump() | given | {"weights": weights})


class SetKindLimits(KindLimits):
    """Body of `PUT /v1/kinds/{name}/limits`: they go before those of the code; what is left out or null is the code's.

    Of `PATCH`: what is to change; what is left out stays. `queue` is needed when several know the kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: str | None = None

    def over(self, old: KindLimits) -> KindLimits:
        """Return `old` with what was given changed."""
        return KindLimits(**old.model_dump() | self.model_dump(exclude_unset=True, exclude={"queue"}))
