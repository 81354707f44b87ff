"""Prices: constants against hand-worked sums and published figures, baselines, crossover."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import qualia
import yaml
from hypothesis import given
from hypothesis import strategies as st
from layers import LINEAR, changed, layer
from pydantic import TypeAdapter

from multispike.energy.count import count_layer
from multispike.energy.pricing import Energy, Memory, price_layers
from multispike.energy.profiles import (
    Constant,
    Profile,
    get_profile,
    list_profiles,
    load_profile,
)
from multispike.energy.twins import (
    Crossover,
    crossover_density,
    even_density,
    price_run,
    price_twins,
)
from multispike.errors import InputError
from multispike.layer_record import Geometry, LayerRecord, Synapses, with_density

CLOSE = 1e-9  # relative: sums of a few dozen floats

CONVS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)


def vgg16(timesteps: int, levels: int, pools: bool = False) -> list[LayerRecord]:
    """VGG-16 on 3x32x32: 13 convolutions and one linear layer, with its poolings if asked."""
    channels, size, records = 3, 32, []
    steps: dict[str, Any] = {"timesteps": timesteps, "levels": (levels, levels)}
    fires: dict[str, Any] = {"bias": True, "neuron": True, "square": (3, 1, 1)}
    for width in (*CONVS, None):
        shape = (channels, size, size)
        if width is None:
            size //= 2
            if pools:
                out = (channels, size, size)
                records.append(layer("pool", shape, out, square=(2, 2, 0), **steps))
            continue
        once = {"timesteps_out": timesteps, "levels": (0, levels)} if channels == 3 else {}
        records.append(layer("conv", shape, (width, size, size), **(once or steps), **fires))
        channels = width
    fc = layer("linear", (512,), (10,), bias=True, timesteps=timesteps, levels=(levels, 0))
    return [*records, fc]


FC = changed(LINEAR, neuron_leak=True)


# --- the published figure ----------------------------------------------------------------------


def test_vgg16_ann_as_published():
    """Castagnetti et al. 2025 report 12.9e6 nJ; BN folded into biases, one 512-10 layer."""
    records = vgg16(1, 4)
    assert len(records) == 14
    report = price_layers(records, "castagnetti2025", network="ann")
    assert report.counts.mac == 313_201_664
    assert report.total_nj == pytest.approx(12.9e6, rel=0.01)
    assert report.total_nj == pytest.approx(12.895e6, rel=1e-4)
    # Its 31,232 pooled values, which the figure leaves out, would not change it.
    pooled = price_layers(vgg16(1, 4, pools=True), "castagnetti2025", network="ann")
    assert pooled.total_nj == pytest.approx(report.total_nj, rel=2e-4)


def test_vgg16_ann_weight_reads_under_lemaire():
    report = price_layers(vgg16(1, 4), "lemaire2022", network="ann")
    assert report.energy_nj.weights == pytest.approx(117.71e6, rel=1e-4)
    # By hand: every MAC reads one weight from its layer's own memory.
    by_hand = sum(
        count.mac * (13.2 + 1.09e-5 * 32 * layer.memories["weights"].elements) * 1e-3
        for layer in report.layers
        for count in (layer.counts,)
    )
    assert report.energy_nj.weights == pytest.approx(by_hand, rel=CLOSE)


def test_one_timestep_of_four_levels_beside_four_of_one():
    """Twice the events, twice the weights read; potentials also pay for each timestep."""
    graded = price_layers(with_density(vgg16(1, 4, pools=True), 0.2), "castagnetti2025")
    binary = price_layers(with_density(vgg16(4, 1, pools=True), 0.1), "castagnetti2025")
    pairs = list(zip(graded.layers, binary.layers, strict=True))[1:]
    for one, four in pairs:
        assert four.energy_nj.weights == pytest.approx(2 * one.energy_nj.weights, rel=CLOSE)
    assert sum(four.energy_nj.potentials for _, four in pairs) > 2 * 0.98 * sum(
        one.energy_nj.potentials for one, _ in pairs
    )
    # Multiplications are what a graded event costs more; at 32 bits they do not decide.
    assert graded.energy_nj.ops > 5 * binary.energy_nj.ops
    assert 1.5 < binary.total_nj / graded.total_nj < 2.5


def test_events_written_are_the_events_read_next():
    for timesteps, levels in ((1, 4), (4, 1)):
        records = with_density(vgg16(timesteps, levels, pools=True), 0.15)
        for earlier, later in pairwise(records):
            assert count_layer(earlier).write_output == count_layer(later).read_input


# --- one layer by hand -------------------------------------------------------------------------


def test_spiking_layer_by_hand():
    layer = price_layers([FC], "lemaire2022").layers[0]
    slope = 1.09e-5
    assert layer.memories == {
        "weights": Memory(18, 32),
        "bias": Memory(3, 32),
        "potentials": Memory(3, 32),
        "inputs": Memory(2048, 4),  # 6 inputs: 3 address bits; 1 bit of payload
        "outputs": Memory(2048, 3),
    }
    expected = Energy(
        ops=(34 * 0.1 + 12 * 3.1) * 1e-3,
        addressing=15 * 0.1 * 1e-3,
        weights=15 * (13.2 + slope * 18 * 32) * 1e-3,
        potentials=54 * (13.2 + slope * 3 * 32) * 1e-3,
        bias=12 * (13.2 + slope * 3 * 32) * 1e-3,
        io=(5 * (13.2 + slope * 2048 * 4) + 7 * (13.2 + slope * 2048 * 3)) * 1e-3,
    )
    assert layer.energy_nj.to_dict() == pytest.approx(expected.to_dict(), rel=CLOSE)


def test_packed_sram_by_hand():
    layer = price_layers([FC], "sram8k", 8).layers[0]
    assert layer.energy_nj.weights == pytest.approx(15 * 10 / 8 * 1e-3)
    assert layer.energy_nj.io == pytest.approx((5 * 4 + 7 * 3) * 10 / 64 * 1e-3)


def test_quantised_ann_has_narrow_activations():
    graded = changed(
        FC,
        timesteps=1,
        neuron_timesteps=1,
        input_levels=4,
        output_levels=4,
        output_events=3,
        output_amplitude=3,
    )
    for record in (FC, graded):  # N·T = 4 either way: 3 bits
        layer = price_layers([record], network="qann").layers[0]
        assert layer.memories["inputs"] == Memory(6, 3)
        assert layer.memories["outputs"] == Memory(3, 3)
        assert layer.memories["weights"] == Memory(18, 32)
    ann, qann = (
        price_layers([FC], "sram8k", network=network).energy_nj for network in ("ann", "qann")
    )
    assert qann.io == pytest.approx(ann.io * 3 / 32)
    assert replace(qann, io=ann.io) == ann


def test_analog_input_and_logits_keep_full_width():
    head = changed(FC, neuron=None, output_events=0, output_amplitude=0, output_levels=0)
    assert price_layers([head], network="qann").layers[0].memories["outputs"] == Memory(3, 32)
    stem = vgg16(1, 4)[0]
    for network in ("snn", "qann"):
        memory = price_layers([stem], network=network, bits=16).layers[0].memories["inputs"]
        assert memory == Memory(3072, 16)


# --- profiles ----------------------------------------------------------------------------------


def test_operations_at_tabulated_and_interpolated_widths():
    profile = get_profile("lemaire2022")
    assert [profile.add(bits) for bits in (8, 32)] == [0.03, 0.1]
    assert [profile.mul(bits) for bits in (8, 32)] == [0.2, 3.1]
    assert profile.mac(32) == pytest.approx(3.2)
    # The power law's value at 16 bits is the geometric mean of those at 8 and 32.
    assert profile.add(16) == pytest.approx((0.03 * 0.1) ** 0.5)
    assert profile.mul(16) == pytest.approx((0.2 * 3.1) ** 0.5)


def test_accesses_at_horowitz_points():
    profile = get_profile("lemaire2022")
    for kib, pj in ((8, 13.9), (32, 16.1), (1024, 104.6)):
        assert profile.access(kib * 1024 * 8 / 64, 64) == pytest.approx(pj, abs=0.06)


def test_spikingjelly_interpolates_between_the_sizes_that_it_knows():
    profile = get_profile("spikingjelly")
    sizes = {0: 0, 4: 5, 8: 10, 20: 15, 32: 20, 528: 60, 1024: 100, 4096: 100}  # KiB -> pJ
    for kib, pj in sizes.items():
        assert profile.access(kib * 1024 / 4, 32) == pytest.approx(pj)
        assert profile.access(kib * 1024, 8) == pytest.approx(pj / 4)  # a byte, not a word
    assert profile.mac(8) == profile.mac(32) == pytest.approx(3.2)
    assert price_layers([FC], profile).layers[0].memories["inputs"] == Memory(1000, 32)


def test_qualia_accesses_potentials_of_the_stem_at_every_timestep_and_queues_words():
    stem = changed(vgg16(4, 1)[0], input_events=3072, input_taps=3072 * 8)
    ours, theirs = (price_layers([stem], name) for name in ("lemaire2022", "qualia"))
    assert theirs.energy_nj.weights == ours.energy_nj.weights
    assert theirs.counts.mac == ours.counts.mac
    update, fetches = 4 * stem.out_size, ours.counts.read_weights
    assert theirs.counts.read_potential == 4 * fetches + update
    assert theirs.layers[0].memories["outputs"] == Memory(2048, 32)


def test_qualia_itself_differs_from_our_qualia_by_what_is_named():
    """Their figures are those of benchmarks/qualia.sh; records are priced as they are today."""
    content = json.loads(qualia.TARGET.read_text())
    records = TypeAdapter(list[LayerRecord])
    for row in content["rows"]:
        assert row["nj_by_qualia"] == pytest.approx(row["nj"] + sum(row["differences_nj"].values()))
        layers = records.validate_python(row["records"])
        for bits, theirs in row["theirs_pj"].items():
            for name, category, nj, ours in qualia.explained(
                layers, theirs, int(bits), row["spiking"]
            ):
                where = f"{row['network']} at {bits} bits: {category} of {name}"
                assert ours == pytest.approx(nj, rel=1e-9, abs=1e-9), where


def test_a_constant_of_every_built_in_profile_says_where_it_is_from():
    for name in list_profiles():
        assert all(len(one.source) > 20 for one in get_profile(name).constants.values())


def test_a_run_is_priced_by_every_execution_and_profile_at_once():
    records = with_density(vgg16(1, 4), 0.2)
    prices = price_run(records, profiles=list_profiles())
    assert prices.executions is not None
    assert list(prices.executions) == ["mac", "repeat", "unroll", "bits"]
    assert prices.executions["mac"] == prices.energy_nj
    for op, energy in prices.executions.items():
        assert energy == price_layers(records, graded_op=op).energy_nj
    assert prices.energy_nj_profiles is not None
    assert list(prices.energy_nj_profiles) == list_profiles()
    for name, one in prices.energy_nj_profiles.items():
        assert one.energy_nj == price_layers(records, name).energy_nj
    assert price_run(records, spiking=False).executions is None


def test_how_energy_scales_with_bits():
    wide, narrow = (price_layers([FC], "sram8k", bits).energy_nj for bits in (32, 8))
    assert wide.weights == pytest.approx(4 * narrow.weights)
    wide, narrow = (price_layers([FC], "lemaire2022", bits).energy_nj for bits in (32, 8))
    base = 15 * 13.2e-3
    assert wide.weights - base == pytest.approx(4 * (narrow.weights - base), rel=1e-6)
    wide, narrow = (price_layers([FC], "castagnetti2025", bits).energy_nj for bits in (32, 8))
    assert wide.weights == narrow.weights
    assert wide.ops > narrow.ops
    for name in list_profiles():
        totals = [
            price_layers(vgg16(1, 4), name, bits, network="ann").total_nj for bits in (8, 16, 32)
        ]
        assert totals == sorted(totals)


def as_yaml(name="my_chip", **changes):
    constants = get_profile("lemaire2022").to_dict()["constants"]
    return {"name": name, "constants": {**constants, **changes}}


def write(tmp_path, content):
    path = tmp_path / "chip.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_users_profile(tmp_path):
    path = write(tmp_path, as_yaml())
    assert load_profile(path).constants == get_profile("lemaire2022").constants
    assert price_layers([FC], path).total_nj == price_layers([FC]).total_nj
    free = {"value": 0, "source": "ideal multiplier"}
    ideal = load_profile(write(tmp_path, as_yaml(mul_8bit_pj=free, mul_32bit_pj=free)))
    assert ideal.mul(16) == 0
    assert price_layers([FC], ideal).to_json()["energy_nj"]["profile"] == "my_chip"


def without(key):
    content = as_yaml()
    del content["constants"][key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_yaml(add_8bit_pj={"value": -1, "source": "x"}), "add_8bit_pj: got -1"),
        (as_yaml(add_8bit_pj={"value": "0.1 pJ", "source": "x"}), "add_8bit_pj: got '0.1 pJ'"),
        (as_yaml(add_8bit_pj={"value": True, "source": "x"}), "add_8bit_pj: got True"),
        (as_yaml(add_8bit_pj={"value": float("inf"), "source": "x"}), "add_8bit_pj: got inf"),
        (as_yaml(add_8bit_pj={"value": 10**400, "source": "x"}), "add_8bit_pj: got '1000"),
        (as_yaml(add_8bit_pj={"value": "3e-2", "source": "x"}), "3e-2 is text in YAML"),
        (as_yaml(add_8bit_pj={"value": 1.0}), "add_8bit_pj: missing source"),
        (as_yaml(add_8bit_pj={"value": 1.0, "source": " "}), "add_8bit_pj.source: got ' '"),
        (as_yaml(add_8bit_pj=0.1), "add_8bit_pj: got 0.1"),
        (as_yaml(add_8bit={"value": 1.0, "source": "x"}), "got 'add_8bit', nearest: add_8bit_pj"),
        (as_yaml(fifo_elements={"value": 2.5, "source": "x"}), "fifo_elements: got 2.5"),
        (without("fifo_elements"), "constants: missing fifo_elements"),
        ({"name": "my_chip"}, "missing constants"),
        (as_yaml(name="sram8k"), "name: got 'sram8k'"),
        ([1, 2], "allowed: the keys name, constants"),
        ("name: [", "not a YAML file"),
    ],
)
def test_a_bad_profile_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        load_profile(write(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"^profile: got '.*absent.yaml', No such file"):
        price_layers([FC], str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match=r"^profile: got 'lemaire', nearest: lemaire2022; allowed"):
        price_layers([FC], "lemaire")


def test_a_profile_made_in_python_is_checked_too():
    with pytest.raises(InputError, match=r"^lemaire2022\.access_pj: got -1, allowed"):
        Profile("lemaire2022", {"access_pj": Constant(-1, "typing error")})


@pytest.mark.parametrize("bits", [0, 12, 64])
def test_widths_that_are_not_offered(bits):
    with pytest.raises(InputError, match=f"^bits: got {bits}, allowed: one of 8, 16, 32$"):
        price_layers([FC], bits=bits)


def test_no_layers():
    for function in (price_layers, price_twins, crossover_density):
        with pytest.raises(InputError, match=r"^records: got \[\], allowed: at least one layer$"):
            function([])


# --- reports -----------------------------------------------------------------------------------


def test_report_as_json():
    report = price_layers([FC], "sram8k", 16, fanout="exact", not_counted=["attn: attention"])
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {"energy_nj", "synops", "layers", "not_counted"} <= set(content)
    assert content["not_counted"] == ["attn: attention"]
    assert list(content["energy_nj"]) == [
        *("profile", "bits", "total"),
        *("ops", "addressing", "weights", "potentials", "bias", "io"),
    ]
    assert content["layers"][0]["energy_nj"]["total"] == report.total_nj
    assert content["layers"][0]["memories"]["weights"] == {"elements": 18, "bits": 16}
    constants = content["assumptions"]["profile"]["constants"]
    assert all(constant["source"] for constant in constants.values())
    assert content["assumptions"]["fanout"] == "exact"
    assert content["assumptions"]["operation_pj"]["mac"] == get_profile("sram8k").mac(16)


def test_total_is_the_sum_of_layers_and_of_categories():
    records = with_density(vgg16(4, 1, pools=True), 0.1)
    whole = price_layers(records)
    assert whole.total_nj == pytest.approx(
        sum(price_layers([record]).total_nj for record in records), rel=CLOSE
    )
    categories = whole.energy_nj.to_dict()
    total = categories.pop("total")
    assert (categories.pop("profile"), categories.pop("bits")) == ("lemaire2022", 32)
    assert total == pytest.approx(sum(categories.values()), rel=CLOSE)


def test_arithmetic_needs_neither_torch_nor_numpy():
    code = (
        "import sys, multispike.layer_record, multispike.energy.twins;"
        "print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- baselines and crossover -------------------------------------------------------------------


@st.composite
def spiking_networks(draw):
    """Two linear layers of random sizes under random T and N, with a profile."""
    timesteps, levels = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    sizes = draw(st.lists(st.integers(1, 40), min_size=3, max_size=3))
    leak = draw(st.booleans())
    records = [
        layer("linear", (inputs,), (outputs,), bias=True, timesteps=timesteps,
              levels=(levels, levels), neuron=True, leak=leak)
        for inputs, outputs in pairwise(sizes)
    ]  # fmt: skip
    return records, draw(st.sampled_from(list_profiles()))


@given(spiking_networks(), st.floats(0, 1))
def test_crossover_tells_who_wins_at_any_density(network, density):
    records, profile = network
    assumed = with_density(records, density)
    spiking = price_layers(assumed, profile, 8).total_nj
    crossings = crossover_density(records, profile, 8)
    for name, baseline in price_twins(assumed, profile, 8).items():
        wins = crossings[name].wins
        if abs(spiking - baseline.total_nj) > 1e-9 * spiking:
            claimed = wins is not None and wins[0] <= density <= wins[1]
            assert claimed == (spiking < baseline.total_nj)
        crossing = crossings[name].density
        if crossing is not None:
            there = with_density(records, crossing)
            equal = price_layers(there, profile, 8, network=name).total_nj
            assert price_layers(there, profile, 8).total_nj == pytest.approx(equal, rel=1e-7)


def test_crossover_of_vgg16():
    """More timesteps leave less room; zero skipping is the hardest opponent."""
    graded = crossover_density(vgg16(1, 4, pools=True))
    binary = crossover_density(vgg16(4, 1, pools=True))
    densities = [
        [crossings[name].density or 1.0 for name in ("qann_skip", "qann", "ann")]
        for crossings in (graded, binary)
    ]
    assert all(0 < skip < dense < full < 1 for skip, dense, full in densities)
    assert all(four < one for one, four in zip(*densities, strict=True))
    assert (
        graded["ann"]
        .to_dict()["verdict"]
        .startswith("the SNN needs less energy than the dense ANN below density 0.9")
    )
    # Measured activity plays no part.
    assert crossover_density(with_density(vgg16(1, 4, pools=True), 0.3)) == graded


@pytest.mark.parametrize(
    ("wins", "density", "where"),
    [
        (None, None, "at no density"),
        ((0.0, 1.0), None, "at any density"),
        ((0.0, 0.125), 0.125, "below density 0.125"),
        ((0.5, 1.0), None, "above density 0.5"),
        ((0.25, 0.5), 0.5, "between densities 0.25 and 0.5"),
    ],
)
def test_where_the_snn_wins(wins, density, where):
    crossover = Crossover("qann", wins)
    assert (crossover.density, crossover.where) == (density, where)


@given(spiking_networks(), st.floats(0, 1))
def test_a_uniform_density_is_its_own_even_density(network, density):
    records, profile = network
    found = even_density(with_density(records, density), profile, 8)
    assert found == pytest.approx(density, abs=1e-6)


def test_even_density_weighs_layers_by_what_their_events_cost():
    """All events in the layer whose events cost more: more than their mean density."""
    wide, narrow = (changed(FC, geometry_out_shape=(width,)) for width in (300, 7))
    loud, silent = with_density([wide, narrow], 0.5), with_density([wide, narrow], 0.0)
    assert 0.25 < even_density([loud[0], silent[1]]) < 0.5
    assert 0.0 < even_density([silent[0], loud[1]]) < 0.25
    free = Profile("free", dict.fromkeys(get_profile("sram8k").constants, Constant(0, "free")))
    assert even_density(loud, free) == 0
    with pytest.raises(InputError, match="a spiking network"):
        even_density([Synapses("fc", Geometry((6,), (3,)), kind="linear")])


def test_analog_inputs_stay_as_recorded_at_an_assumed_density():
    """An image that is half dark stays so; only where nothing was recorded is it taken as full."""
    dark = changed(vgg16(1, 4)[0], input_events=1000, input_taps=8000)
    assumed = with_density([dark], 0.3)[0]
    assert (assumed.input.events, assumed.input.taps) == (1000, 8000)
    assert assumed.output.events == 0.3 * assumed.out_size
    assert even_density([assumed, vgg16(1, 4)[-1]]) == pytest.approx(
        even_density([with_density([vgg16(1, 4)[0]], 0.3)[0], vgg16(1, 4)[-1]])
    )


def test_crossover_of_a_network_without_spikes():
    layer = Synapses("fc", Geometry((6,), (3,)), kind="linear")
    with pytest.raises(InputError, match=r"^records: got .*, allowed: a spiking network$"):
        crossover_density([layer])


@given(spiking_networks(), st.floats(0, 1), st.floats(0, 1))
def test_energy_is_positive_and_grows_with_events(network, one, other):
    records, profile = network
    low, high = sorted((one, other))
    for graded_op in ("mac", "repeat", "unroll", "bits"):
        fewer, more = (
            price_layers(with_density(records, density), profile, graded_op=graded_op).energy_nj
            for density in (low, high)
        )
        for name in ("total", "ops", "addressing", "weights", "potentials", "bias", "io"):
            assert 0 <= getattr(fewer, name) <= getattr(more, name) * (1 + CLOSE)


def test_tables_of_the_page_are_what_its_programs_print(capsys):
    page = Path(__file__).parent.parent.joinpath("docs", "energy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for block in blocks:
        if 'print(f"| ' in block:
            exec(block, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7 + len(list_profiles())
    assert not [line for line in printed if line not in page.splitlines()]
