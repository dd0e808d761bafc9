"""The faults that are planted fit in the code as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.planted import planted
from tests.simulation.plants import PLANTS, Plant


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_every_fault_has_its_place_in_the_code_and_leaves_python(
    plant: Plant, tmp_path: Path
) -> None:
    assert planted(plant, tmp_path) == ""
    for edit in plant.edits:
        compile((tmp_path / "dayfly" / edit.module).read_text(), edit.module, "exec")


def test_no_two_faults_have_one_name() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 25
