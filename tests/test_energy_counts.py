"""Counts of single layers against numbers worked out by hand, and laws that all layers obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import LINEAR, changed, layer

from multispike.energy.count import Counts, count_layer, synops
from multispike.energy.pricing import price_layers
from multispike.errors import InputError
from multispike.files import to_plain
from multispike.layer_record import (
    Geometry,
    Input,
    Neuron,
    Output,
    Stream,
    Synapses,
    with_density,
)

# 2x5x5 -> 4x3x3, kernel 3, stride 2, padding 1. Along one axis an input at 0..4 meets
# 1, 2, 1, 2, 1 outputs (output o covers 2o-1 .. 2o+1): 7 pairs of at most 9.
CONV = layer(
    "conv", (2, 5, 5), (4, 3, 3), square=(3, 2, 1),
    bias=True, timesteps=2, levels=(3, 3), neuron=True, leak=True,
    # Two events over both timesteps: z = 3 at row 1, column 1 (meets 2x2 windows) and z = 1 in
    # the corner (1x1 window).
    read=(2, 4), taps=(5, 13), sent=(6, 9), max_level=2,
)  # fmt: skip
ADD = layer(
    "add", (2, 2, 2), (2, 2, 2), timesteps=3, levels=(4, 4), neuron=True,
    read=(5, 8), sent=(6, 9), shortcut=Stream(4, 7, 7),
)  # fmt: skip
POOL = layer(
    "pool", (2, 4, 4), (2, 2, 2), square=(2, 2, 0), timesteps=3, levels=(4, 4),
    read=(9, 12), sent=(5, 8),
)  # fmt: skip


# A layer without a neuron behind it.
SILENT: dict[str, Any] = {"neuron": None, "output": Output()}
ANALOG: dict[str, Any] = {"input_levels": 0, "input_amplitude": 0}


def test_spiking_conv_as_lemaire_counts():
    # 2 events x 4 channels x ceil(3/2)^2 = 32 operations; x 3x3 = 72 fetches; 36 neurons, T = 2.
    assert count_layer(CONV) == Counts(
        mac=32,
        ac=72 + 6,  # bias at each timestep, resets
        mul=72,
        read_input=2,
        read_weights=72,
        read_bias=72,
        read_potential=72 + 72,
        write_potential=72 + 72,
        write_output=6,
        address_mac=4,
        address_ac=72,
    )


def test_spiking_conv_with_true_fan_out():
    assert count_layer(CONV, fanout="exact") == Counts(
        mac=20,  # 5 taps x 4 channels
        ac=72 + 6,
        mul=72,
        read_input=2,
        read_weights=20,
        read_bias=72,
        read_potential=20 + 72,
        write_potential=20 + 72,
        write_output=6,
        address_mac=4,
        address_ac=20,
    )


def test_graded_event_as_repeated_addition():
    repeated = count_layer(CONV, graded_op="repeat")
    assert (repeated.mac, repeated.ac) == (0, 4 * 16 + 72 + 6)  # sum z = 4
    exact = count_layer(CONV, graded_op="repeat", fanout="exact")
    assert (exact.mac, exact.ac) == (0, 13 * 4 + 72 + 6)
    # The weight is read once and held: no access changes.
    assert replace(repeated, mac=32, ac=78) == count_layer(CONV)


def test_graded_event_as_shifted_additions():
    shifted = count_layer(CONV, graded_op="bits")
    assert (shifted.mac, shifted.ac) == (0, 2 * 32 + 72 + 6)  # levels 0..3: two bits
    assert replace(shifted, mac=32, ac=78) == count_layer(CONV)
    wide = changed(CONV, input_levels=4, input_amplitude=4)  # 0..4: three bits
    assert count_layer(wide, graded_op="bits").ac == 3 * 32 + 72 + 6


@pytest.mark.parametrize("fanout", ["lemaire", "exact"])
def test_graded_event_unrolled_is_a_binary_event_for_each_unit(fanout):
    """sum z = 4 comes in, 9 goes out: addresses, weights and potentials for each of them."""
    unrolled = count_layer(CONV, graded_op="unroll", fanout=fanout)
    units = {"input_levels": 1, "input_events": 4, "input_amplitude": 4, "input_taps": 13}
    sent = {"output_levels": 1, "output_events": 9, "output_amplitude": 9, "output_max_level": 1}
    binary = changed(CONV, **units, input_amplitude_taps=13, **sent)
    assert unrolled == count_layer(binary, fanout=fanout)
    assert (unrolled.read_input, unrolled.write_output, unrolled.address_mac) == (4, 9, 8)
    assert unrolled.read_weights == (4 * 4 * 9 if fanout == "lemaire" else 13 * 4)
    prices = price_layers([CONV], graded_op="unroll", fanout=fanout)
    assert prices.energy_nj == price_layers([binary], fanout=fanout).energy_nj


def test_unrolled_sums_and_pools_work_once_for_each_unit():
    add, pool = (count_layer(record, graded_op="unroll") for record in (ADD, POOL))
    assert (add.read_input, add.ac, add.write_output) == (8 + 7, 8 + 7 + 9, 9)
    assert (pool.read_input, pool.ac, pool.write_output) == (12, 12, 8)


@pytest.mark.parametrize("graded_op", ["repeat", "unroll", "bits"])
def test_how_a_graded_event_is_executed_does_not_touch_binary_and_analog_ones(graded_op):
    binary = changed(CONV, input_levels=1, input_amplitude=2, input_amplitude_taps=5,
                     output_levels=1, output_events=9, output_max_level=1)  # fmt: skip
    analog = replace(changed(CONV, **ANALOG, input_amplitude_taps=0), **SILENT)
    for record in (binary, analog):
        assert count_layer(record, graded_op=graded_op) == count_layer(record)


def test_a_stem_whose_potentials_are_accessed_at_every_timestep():
    stem = layer(
        "conv", (1, 3, 3), (2, 3, 3), square=(3, 1, 1), bias=True, timesteps_out=4, neuron=True,
        levels=(0, 1), read=(2, 0), taps=(13, 0), sent=(10, 10),
    )  # fmt: skip
    once, each = (
        count_layer(stem, fanout="exact", stem_each_timestep=each) for each in (False, True)
    )
    assert (each.read_weights, each.mac) == (26, 26)
    assert (each.read_potential, each.write_potential) == (4 * 26 + 72, 4 * 26 + 72)
    assert once.read_weights == 26
    assert count_layer(CONV, stem_each_timestep=True) == count_layer(CONV)  # reads events


def test_binary_spiking_conv_adds_only():
    binary = changed(CONV, input_levels=1, input_amplitude=2, input_amplitude_taps=5)
    for graded_op in ("mac", "repeat"):
        assert count_layer(binary, graded_op=graded_op).mac == 0
        assert count_layer(binary, graded_op=graded_op).ac == 32 + 72 + 6


def test_without_bias_neuron_and_leak():
    plain = replace(CONV, bias=False, **SILENT)
    count = count_layer(plain)
    assert (count.ac, count.mul, count.read_bias, count.write_output) == (0, 0, 0, 0)
    assert count.read_potential == 72 + 72  # still handed on once per timestep


def test_grouped_conv_reaches_its_group_only():
    grouped = changed(CONV, geometry_groups=2)
    assert count_layer(grouped).mac == 16
    assert count_layer(grouped, fanout="exact").read_weights == 10
    assert count_layer(grouped, network="ann").mac == count_layer(CONV, network="ann").mac / 2
    assert grouped.weights == CONV.weights / 2 == 36


def test_spiking_linear():
    expected = Counts(
        ac=15 + 12 + 7,  # 5 events x 3 neurons, bias 4 x 3, resets: Eq. 2.4 without the slips
        read_input=5,
        read_weights=15,
        read_bias=12,
        read_potential=15 + 12,
        write_potential=15 + 12,
        write_output=7,
        address_ac=15,
    )
    assert count_layer(LINEAR) == count_layer(LINEAR, fanout="exact") == expected


def test_analog_stem_is_computed_once_and_held():
    stem = layer(
        "conv", (1, 3, 3), (2, 3, 3), square=(3, 1, 1), bias=True, timesteps_out=4, neuron=True,
        # Two non-zero pixels: the centre (9 taps) and a corner (4).
        levels=(0, 1), read=(2, 0), taps=(13, 0), sent=(10, 10),
    )  # fmt: skip
    assert count_layer(stem, fanout="exact") == Counts(
        mac=26,
        ac=18 + 4 * 18 + 10,  # bias once, the held result at each of 4 timesteps, resets
        read_input=2,
        read_weights=26,
        read_bias=18,
        read_potential=26 + 4 * 18 + 4 * 18,  # ... held result and potential
        write_potential=26 + 4 * 18,
        write_output=10,
        address_mac=4,
        address_ac=26,
    )
    once = changed(stem, neuron_timesteps=1)
    assert count_layer(once, fanout="exact").read_potential == 26 + 18
    assert count_layer(once).mac == count_layer(once, graded_op="repeat").mac == 2 * 2 * 9


def test_dense_conv():
    # 36 outputs x 2x3x3; the recorded activity, T, leak and neuron play no part.
    expected = Counts(
        mac=648,
        ac=36,
        read_input=648,
        read_weights=648,
        read_bias=36,
        write_output=36,
        address_ac=50 + 36 + 36,
    )
    assert count_layer(CONV, network="ann") == count_layer(CONV, network="qann") == expected
    unbiased = count_layer(replace(CONV, bias=False), network="ann")
    assert (unbiased.ac, unbiased.read_bias) == (0, 0)


def test_dense_linear():
    assert count_layer(LINEAR, network="ann") == Counts(
        mac=18,
        ac=3,
        read_input=6,
        read_weights=18,
        read_bias=3,
        write_output=3,
        address_ac=18,
    )


@pytest.mark.parametrize("record", [LINEAR, CONV, replace(CONV, timesteps=1)])
def test_an_ann_on_frames_is_evaluated_at_every_timestep(record):
    once, stepwise = (count_layer(record, network=network) for network in ("ann", "ann_stepwise"))
    assert vars(stepwise) == {k: v * record.timesteps for k, v in vars(once).items()}


def test_zero_skipping_saves_macs_and_weight_reads_only():
    # Linear: 5 events over T = 4 can have come from at most 5 of 6 inputs.
    dense, skipping = (count_layer(LINEAR, network=network) for network in ("qann", "qann_skip"))
    assert skipping.mac == skipping.read_weights == pytest.approx(15)
    assert replace(skipping, mac=18, read_weights=18) == dense
    # ... and from 2 inputs if that was measured.
    assert count_layer(changed(LINEAR, input_active=2), network="qann_skip").mac == pytest.approx(6)
    # Conv: 2 of 50 inputs; 648 x 2/50, or their 5 true taps x 4 channels.
    assert count_layer(CONV, network="qann_skip").mac == pytest.approx(648 * 2 / 50)
    assert count_layer(CONV, network="qann_skip", fanout="exact").mac == pytest.approx(20)
    # Residual sums and poolings have nothing to skip.
    assert count_layer(ADD, network="qann_skip") == count_layer(ADD, network="ann")


def test_zero_skipping_of_a_silent_layer():
    silent = changed(CONV, input_events=0, input_amplitude=0, input_taps=0, input_amplitude_taps=0)
    for fanout in ("lemaire", "exact"):
        count = count_layer(silent, network="qann_skip", fanout=fanout)
        assert (count.mac, count.read_weights, count.read_input) == (0, 0, 648)


def test_sum_of_spikes_into_a_barrier():
    # Sparse: 5 + 7 events are read and added to the barrier's potentials, 8 of them, T = 3.
    assert count_layer(ADD) == Counts(
        ac=12 + 6,
        read_input=12,
        read_potential=12 + 24,
        write_potential=12 + 24,
        write_output=6,
    )


def test_sum_of_spikes_without_a_neuron_resets_nothing():
    sew = changed(ADD, neuron=None, output_levels=8)
    assert count_layer(sew) == replace(count_layer(ADD), ac=12)


def test_shortcut_added_in_place():
    # Spiking ResNet: the direct path is potentials, whose pass its convolution has paid.
    spiking = replace(ADD, input=Stream())
    assert count_layer(spiking) == Counts(
        ac=7 + 6, read_input=7, read_potential=7, write_potential=7, write_output=6
    )
    down = replace(spiking, shortcut=None)
    assert count_layer(down) == Counts(ac=6, write_output=6)
    assert count_layer(changed(down, neuron_leak=True)).mul == 24


def test_dense_sum_of_potentials():
    # MS-ResNet: 2 reads, an addition and a write per element and timestep ...
    ms = changed(ADD, shortcut="dense", input=Stream(events=5), **SILENT)
    assert count_layer(ms) == Counts(ac=24, read_potential=48, write_potential=24)
    # ... and the neuron's own integration of the sum, which must outlive its reset.
    fires = changed(ms, neuron=Neuron(3), output=Output(4, 6, 9))
    assert count_layer(fires) == Counts(
        ac=24 + 24 + 6, read_potential=48 + 24, write_potential=24 + 24, write_output=6
    )


def test_dense_sum_of_an_ann():
    assert count_layer(ADD, network="ann") == Counts(
        ac=8, read_input=16, write_output=8, address_ac=24
    )


def test_pooling_of_spikes():
    expected = Counts(
        ac=9,
        read_input=9,
        read_potential=9 + 24,  # scan of 8 windows, T = 3
        write_potential=9 + 24,
        write_output=5,
        address_mac=18,
        address_ac=9,
    )
    assert count_layer(POOL) == count_layer(POOL, fanout="exact") == expected
    # Overlapping windows: kernel 3, stride 2: an event can meet four.
    overlapping = changed(
        POOL,
        geometry_kernel=(3, 3),
        geometry_padding=(1, 1),
        input_taps=21,
        input_amplitude_taps=30,
    )
    assert count_layer(overlapping).ac == 36
    assert count_layer(overlapping, fanout="exact").ac == 21


def test_pooling_of_potentials():
    pool = changed(POOL, input_amplitude_taps=0, **ANALOG, **SILENT)
    assert count_layer(pool) == Counts(
        ac=96, read_input=96, write_output=24, address_ac=3 * (32 + 8)
    )
    fires = changed(pool, neuron=Neuron(3), output=Output(2, 5, 8))
    assert count_layer(fires) == Counts(
        ac=96 + 24 + 5,
        read_input=96,
        read_potential=24,
        write_potential=24,
        write_output=5,
        address_ac=120,
    )


def test_dense_pooling():
    assert count_layer(POOL, network="ann") == Counts(
        ac=32, read_input=32, write_output=8, address_ac=40
    )


@pytest.mark.parametrize(
    ("argument", "value"), [("network", "rnn"), ("fanout", "true"), ("graded_op", "shift")]
)
def test_unknown_names_are_refused(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: got '{value}'.*allowed: "):
        count_layer(CONV, **{argument: value})


def test_synops_as_neurobench_counts():
    # CONV is graded: 5 taps x 4 = 20 MACs; dense: 2 timesteps x 2 channels x 7x7 pairs x 4.
    # LINEAR is binary: 15 ACs, dense 4 x 18. Sums and poolings do not count.
    result = synops([CONV, ADD, POOL, LINEAR])
    assert vars(result) == {"effective_acs": 15, "effective_macs": 20, "dense": 784 + 72}
    with pytest.raises(InputError, match=r"^records: got \[\], allowed: at least one layer$"):
        synops([])


# --- records ---------------------------------------------------------------------------------


@st.composite
def geometry(draw):
    """A small convolution whose output is not empty, with one group or several."""
    groups = draw(st.integers(1, 3))
    axes = []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding, stride = draw(st.integers(0, 2)), draw(st.integers(1, 3))
        size = draw(st.integers(max(1, dilation * (kernel - 1) + 1 - 2 * padding), 7))
        out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        axes.append((size, out, kernel, stride, padding, dilation))
    size, out, kernel, stride, padding, dilation = zip(*axes, strict=True)
    groups_of = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    timesteps = draw(st.integers(1, 3))
    return Synapses(
        "conv",
        Geometry(
            (groups_of[0] * groups, *size),
            (groups_of[1] * groups, *out),
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        ),
        kind="conv",
        timesteps=timesteps,
        input=Input(levels=draw(st.integers(1, 4))),
        output=Output(levels=draw(st.integers(1, 4))),
        neuron=Neuron(timesteps, leak=draw(st.booleans())),
        bias=draw(st.booleans()),
    )


@given(geometry())
def test_dense_taps_seen_from_the_input(record):
    """Every input position, asked one by one which outputs it reaches."""

    def outputs(axis, position):
        starts = (
            position + record.geometry.padding[axis] - offset * record.geometry.dilation[axis]
            for offset in range(record.geometry.kernel[axis])
        )
        reached = (divmod(start, record.geometry.stride[axis]) for start in starts)
        return sum(
            rest == 0 and 0 <= o < record.geometry.out_shape[axis + 1] for o, rest in reached
        )

    taps = sum(
        outputs(0, row) * outputs(1, column)
        for row in range(record.geometry.in_shape[1])
        for column in range(record.geometry.in_shape[2])
    )
    assert record.geometry.dense_taps == record.geometry.in_shape[0] * taps


@given(geometry(), st.floats(0, 1), st.floats(0, 1))
def test_counts_grow_with_density(record, one, other):
    low, high = (with_density([record], density)[0] for density in sorted((one, other)))
    for fanout in ("lemaire", "exact"):
        for graded_op in ("mac", "repeat", "unroll", "bits"):
            fewer, more = (
                vars(count_layer(r, fanout=fanout, graded_op=graded_op)) for r in (low, high)
            )
            assert all(0 <= fewer[name] <= more[name] * (1 + 1e-9) for name in fewer)


@given(geometry())
def test_full_density_is_the_dense_network(record):
    full = with_density([record], 1.0)[0]
    assert full.active_share == 1
    steps = record.timesteps
    exact = count_layer(full, fanout="exact", graded_op="repeat")
    assert exact.read_weights == steps * record.geometry.dense_taps * record.fan
    assert exact.read_weights == synops([full]).dense
    # Only the padding separates it from the dense count of the ANN.
    dense = count_layer(full, network="ann").mac
    assert record.geometry.dense_taps * record.fan <= dense
    if record.geometry.padding == (0, 0):
        assert record.geometry.dense_taps * record.fan == dense
    assert count_layer(full, network="qann_skip").mac == pytest.approx(dense)


def test_assumed_density_by_hand():
    record = with_density([changed(CONV, input_levels=4, output_levels=4)], 0.5)[0]
    # Of 2 x 50 inputs, 2 x 2 x 49 pairs.
    assert (record.input.events, record.input.taps) == (50, 98)
    assert (record.input.amplitude, record.input.amplitude_taps) == (125, 245)  # mean of 1..4
    assert record.input.active == 0.75 * 50  # active at one timestep of two at least
    assert (record.output.events, record.output.amplitude, record.output.max_level) == (36, 90, 4)
    add = with_density([ADD], 0.25)[0]
    assert (add.input.events, add.shortcut.events, add.output.events) == (6, 6, 6)
    stem = Synapses("stem", Geometry((4,), (2,)), kind="linear")
    assert with_density([stem], 0.1)[0].input.events == 4  # analog: all non-zero


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_density_outside_the_unit_interval(density):
    with pytest.raises(InputError, match=r"^density: got .*, allowed: a number in \[0, 1\]$"):
        with_density([CONV], density)


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (CONV, {"geometry_out_shape": (4, 4, 4)}),
        (CONV, {"geometry_in_shape": (50,)}),
        (CONV, {"geometry_in_shape": (0, 5, 5)}),
        (CONV, {"geometry_stride": (0, 1)}),
        (CONV, {"geometry_kernel": (3,)}),
        (CONV, {"geometry_groups": 3}),
        (CONV, {"timesteps": 0}),
        (CONV, {"neuron_timesteps": 3}),
        (CONV, {"input_levels": 0}),
        (CONV, {"output_levels": 0}),
        (CONV, {"input_events": -1}),
        (CONV, {"input_events": float("nan")}),
        (CONV, {"input_events": 101}),
        (CONV, {"input_active": 3}),
        (CONV, {"input_taps": 19}),
        (CONV, {"input_amplitude": 1}),
        (CONV, {"input_amplitude": 7}),
        (CONV, {"input_amplitude_taps": 16}),
        (CONV, {"output_events": 73}),
        (CONV, {"output_amplitude": 19}),
        (CONV, {"output_amplitude": 5}),
        (CONV, {"output_max_level": 4}),
        (LINEAR, {"input_taps": 4}),
        (LINEAR, {"geometry_groups": 3}),
        (LINEAR, {"geometry_kernel": (3, 3)}),
        (LINEAR, {"input_levels": 0}),
        (ADD, {"geometry_out_shape": (2, 2, 1)}),
        (ADD, {"shortcut": "dense"}),
        (ADD, {"shortcut": Stream(4, 25, 25)}),
        (POOL, {"geometry_out_shape": (1, 2, 2)}),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(record, change):
    with pytest.raises(InputError, match=rf"^{record.name}\.[\w.]+: got [^\n]*allowed: [^\n]+$"):
        changed(record, **change)


def test_events_need_a_sender():
    with pytest.raises(
        InputError, match=r"^conv\.output.events: got 6, allowed: 0 where no neuron"
    ):
        replace(CONV, neuron=None)


def test_entry_of_a_result_file():
    assert to_plain(CONV.entry()) == {
        "name": "conv",
        "kind": "conv",
        "in_shape": [2, 5, 5],
        "out_shape": [4, 3, 3],
        "events_in": 2,
        "events_out": 6,
        "max_level": 2,
    }
