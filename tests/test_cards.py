from __future__ import annotations

import pytest
from typer.testing import CliRunner

from foveate.cli.app import app
from foveate.errors import UsageError
from foveate.models.cards import CARDS, find_card


@pytest.mark.parametrize("name", CARDS)
def test_every_card_says_what_is_known_and_published_figures_are_shares_of_other_data(name: str) -> None:
    card = CARDS[name]
    assert card.system and card.summary and card.paper and card.provenance
    for row in card.published:
        assert row.data.startswith("published, other data")
        assert row.figures and all(0 <= value <= 1 for value in row.figures.values())


def test_a_timm_backbone_has_the_card_of_its_kind_and_a_misspelt_name_is_corrected() -> None:
    assert find_card("timm:resnet18") is CARDS["timm:<name>"]
    with pytest.raises(UsageError, match="lca_db10"):
        find_card("lca_db_10")


def test_the_command_lists_whole_names_and_prints_a_card() -> None:
    listed = CliRunner().invoke(app, ["models"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in CARDS)  # also where the output is 80 columns wide
    card = CliRunner().invoke(app, ["models", "lca_db10"])
    assert card.exit_code == 0 and "accuracy 0.692" in card.stdout and "published, other data" in card.stdout
