"""Everything at random: workers, servers and links break under load, two at a time, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.faults.campaign import Campaign
from tests.faults.checker import check, verified
from tests.faults.conftest import MakeField
from tests.faults.field import Link
from tests.faults.form import FORM
from tests.faults.ledger import Ledger
from tests.faults.load import under_load_over


@pytest.mark.timeout(FORM.seconds + 400)
async def test_nothing_is_lost_in_a_campaign_of_random_faults(make_field: MakeField, ledger: Ledger, seed: int) -> None:
    field = await make_field(Link.MANAGER_BROKER)
    await field.up()
    await field.add_manager()
    for name in ("worker", "worker", "processes"):
        await field.add_worker(name, own_link=True)
    await field.joined(2)
    urls = [seat.url for seat in field.seats]
    async with under_load_over(urls, ledger, field.effects, seed=seed, processes=True, cancels=0.05) as load:
        async with verified(field) as broken:
            await Campaign(field, seed, FORM.seconds).run()
            await field.heal()
            await load.ran(50)
    assert not broken
    verdict = await check(field, ledger, seconds=120, poison=True)
    assert verdict.faults >= FORM.seconds / 10
