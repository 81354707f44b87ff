"""Energy per inference from recorded activity: counts -> nJ. Plain arithmetic, no torch.

`counts` is the table of formulas, `profiles` the constants, `pricing` multiplies the two,
`baselines` compares with ANNs of the same shape, `synops` counts as NeuroBench does.
"""

from multispike.energy.baselines import (
    BASELINES,
    Crossover,
    baselines,
    crossover_density,
    even_density,
)
from multispike.energy.counts import Counts, Fanout, GradedOp, Network, counts
from multispike.energy.pricing import (
    Energy,
    EnergyReport,
    LayerEnergy,
    Memory,
    checked_profile,
    energy,
)
from multispike.energy.profiles import (
    Constant,
    Profile,
    get_profile,
    list_profiles,
    load_profile,
)
from multispike.energy.synops import SynapticOperations, synops

__all__ = [
    "BASELINES",
    "Constant",
    "Counts",
    "Crossover",
    "Energy",
    "EnergyReport",
    "Fanout",
    "GradedOp",
    "LayerEnergy",
    "Memory",
    "Network",
    "Profile",
    "SynapticOperations",
    "baselines",
    "checked_profile",
    "counts",
    "crossover_density",
    "energy",
    "even_density",
    "get_profile",
    "list_profiles",
    "load_profile",
    "synops",
]
