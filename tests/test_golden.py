"""Today's outputs against those recorded before the restructuring; see `golden_sources`.

With GOLDEN=all in the environment also those of the largest networks, which take minutes.
"""

import os

import pytest
from golden_sources import CASES, FOLDER, PLATFORM, differences, golden, plain, platform, rare

CHOSEN = [case for case in CASES if os.environ.get("GOLDEN") == "all" or not rare(case)]


@pytest.mark.parametrize("case", CHOSEN)
def test_golden(case):
    group, name = case.split("/", 1)
    if group in PLATFORM and platform() != golden("weights")["platform"]:
        pytest.skip("floats of this group differ between this processor and the recorder's")
    found = list(differences(plain(CASES[case]()), golden(group)[name], group))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])


def test_every_golden_has_a_case():
    recorded = {
        f"{path.name.split('.')[0]}/{name}"
        for path in FOLDER.glob("*.json.gz")
        for name in golden(path.name.split(".")[0])
    }
    assert recorded == set(CASES)
