"""Counts of single layers against numbers worked out by hand, and laws that all layers obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import LINEAR, layer

from multispike.energy import Counts, counts, synops
from multispike.errors import InputError
from multispike.layer_record import LayerRecord, with_density

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
    read=(5, 8), sent=(6, 9), shortcut="events", shortcut_events=7,
)  # fmt: skip
POOL = layer(
    "pool", (2, 4, 4), (2, 2, 2), square=(2, 2, 0), timesteps=3, levels=(4, 4),
    read=(9, 12), sent=(5, 8),
)  # fmt: skip


# A layer without a neuron behind it.
SILENT: dict[str, Any] = {
    "neuron": False,
    "leak": False,
    "events_out": 0,
    "amplitude_out": 0,
    "levels_out": 0,
    "max_level": 0,
}
ANALOG: dict[str, Any] = {
    "input_kind": "analog",
    "levels_in": 0,
    "amplitude_in": 0,
    "amplitude_taps_in": 0,
}


def test_spiking_conv_as_lemaire_counts():
    # 2 events x 4 channels x ceil(3/2)^2 = 32 operations; x 3x3 = 72 fetches; 36 neurons, T = 2.
    assert counts(CONV) == Counts(
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
    assert counts(CONV, fanout="exact") == Counts(
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
    repeated = counts(CONV, graded_op="repeat")
    assert (repeated.mac, repeated.ac) == (0, 4 * 16 + 72 + 6)  # sum z = 4
    exact = counts(CONV, graded_op="repeat", fanout="exact")
    assert (exact.mac, exact.ac) == (0, 13 * 4 + 72 + 6)
    # The weight is read once and held: no access changes.
    assert replace(repeated, mac=32, ac=78) == counts(CONV)


def test_binary_spiking_conv_adds_only():
    binary = replace(CONV, levels_in=1, amplitude_in=2, amplitude_taps_in=5)
    for graded_op in ("mac", "repeat"):
        assert counts(binary, graded_op=graded_op).mac == 0
        assert counts(binary, graded_op=graded_op).ac == 32 + 72 + 6


def test_without_bias_neuron_and_leak():
    plain = replace(CONV, bias=False, **SILENT)
    count = counts(plain)
    assert (count.ac, count.mul, count.read_bias, count.write_output) == (0, 0, 0, 0)
    assert count.read_potential == 72 + 72  # still handed on once per timestep


def test_grouped_conv_reaches_its_group_only():
    grouped = replace(CONV, groups=2)
    assert counts(grouped).mac == 16
    assert counts(grouped, fanout="exact").read_weights == 10
    assert counts(grouped, network="ann").mac == counts(CONV, network="ann").mac / 2
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
    assert counts(LINEAR) == counts(LINEAR, fanout="exact") == expected


def test_analog_stem_is_computed_once_and_held():
    stem = layer(
        "conv", (1, 3, 3), (2, 3, 3), square=(3, 1, 1), bias=True, timesteps_out=4, neuron=True,
        # Two non-zero pixels: the centre (9 taps) and a corner (4).
        levels=(0, 1), read=(2, 0), taps=(13, 0), sent=(10, 10),
    )  # fmt: skip
    assert counts(stem, fanout="exact") == Counts(
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
    once = replace(stem, timesteps_out=1)
    assert counts(once, fanout="exact").read_potential == 26 + 18
    assert counts(once).mac == counts(once, graded_op="repeat").mac == 2 * 2 * 9


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
    assert counts(CONV, network="ann") == counts(CONV, network="qann") == expected
    unbiased = counts(replace(CONV, bias=False), network="ann")
    assert (unbiased.ac, unbiased.read_bias) == (0, 0)


def test_dense_linear():
    assert counts(LINEAR, network="ann") == Counts(
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
    once, stepwise = (counts(record, network=network) for network in ("ann", "ann_stepwise"))
    assert stepwise.to_dict() == {k: v * record.timesteps for k, v in once.to_dict().items()}


def test_zero_skipping_saves_macs_and_weight_reads_only():
    # Linear: 5 events over T = 4 can have come from at most 5 of 6 inputs.
    dense, skipping = (counts(LINEAR, network=network) for network in ("qann", "qann_skip"))
    assert skipping.mac == skipping.read_weights == pytest.approx(15)
    assert replace(skipping, mac=18, read_weights=18) == dense
    # ... and from 2 inputs if that was measured.
    assert counts(replace(LINEAR, active_in=2), network="qann_skip").mac == pytest.approx(6)
    # Conv: 2 of 50 inputs; 648 x 2/50, or their 5 true taps x 4 channels.
    assert counts(CONV, network="qann_skip").mac == pytest.approx(648 * 2 / 50)
    assert counts(CONV, network="qann_skip", fanout="exact").mac == pytest.approx(20)
    # Residual sums and poolings have nothing to skip.
    assert counts(ADD, network="qann_skip") == counts(ADD, network="ann")


def test_zero_skipping_of_a_silent_layer():
    silent = replace(CONV, events_in=0, amplitude_in=0, taps_in=0, amplitude_taps_in=0)
    for fanout in ("lemaire", "exact"):
        count = counts(silent, network="qann_skip", fanout=fanout)
        assert (count.mac, count.read_weights, count.read_input) == (0, 0, 648)


def test_sum_of_spikes_into_a_barrier():
    # Sparse: 5 + 7 events are read and added to the barrier's potentials, 8 of them, T = 3.
    assert counts(ADD) == Counts(
        ac=12 + 6,
        read_input=12,
        read_potential=12 + 24,
        write_potential=12 + 24,
        write_output=6,
    )


def test_sum_of_spikes_without_a_neuron_resets_nothing():
    sew = replace(ADD, neuron=False, levels_out=8)
    assert counts(sew) == replace(counts(ADD), ac=12)


def test_shortcut_added_in_place():
    # Spiking ResNet: the direct path is potentials, whose pass its convolution has paid.
    spiking = replace(ADD, input_kind="analog", events_in=0, amplitude_in=0)
    assert counts(spiking) == Counts(
        ac=7 + 6, read_input=7, read_potential=7, write_potential=7, write_output=6
    )
    down = replace(spiking, shortcut="none", shortcut_events=0, levels_in=0)
    assert counts(down) == Counts(ac=6, write_output=6)
    assert counts(replace(down, leak=True)).mul == 24


def test_dense_sum_of_potentials():
    # MS-ResNet: 2 reads, an addition and a write per element and timestep ...
    ms = replace(ADD, shortcut="dense", shortcut_events=0, **ANALOG, **SILENT)
    assert counts(ms) == Counts(ac=24, read_potential=48, write_potential=24)
    # ... and the neuron's own integration of the sum, which must outlive its reset.
    fires = replace(ms, neuron=True, events_out=6, amplitude_out=9, levels_out=4)
    assert counts(fires) == Counts(
        ac=24 + 24 + 6, read_potential=48 + 24, write_potential=24 + 24, write_output=6
    )


def test_dense_sum_of_an_ann():
    assert counts(ADD, network="ann") == Counts(ac=8, read_input=16, write_output=8, address_ac=24)


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
    assert counts(POOL) == counts(POOL, fanout="exact") == expected
    # Overlapping windows: kernel 3, stride 2: an event can meet four.
    overlapping = replace(POOL, kernel=(3, 3), padding=(1, 1), taps_in=21, amplitude_taps_in=30)
    assert counts(overlapping).ac == 36
    assert counts(overlapping, fanout="exact").ac == 21


def test_pooling_of_potentials():
    pool = replace(POOL, **ANALOG, **SILENT)
    assert counts(pool) == Counts(ac=96, read_input=96, write_output=24, address_ac=3 * (32 + 8))
    fires = replace(pool, neuron=True, events_out=5, amplitude_out=8, levels_out=2)
    assert counts(fires) == Counts(
        ac=96 + 24 + 5,
        read_input=96,
        read_potential=24,
        write_potential=24,
        write_output=5,
        address_ac=120,
    )


def test_dense_pooling():
    assert counts(POOL, network="ann") == Counts(
        ac=32, read_input=32, write_output=8, address_ac=40
    )


@pytest.mark.parametrize(
    ("argument", "value"), [("network", "rnn"), ("fanout", "true"), ("graded_op", "shift")]
)
def test_unknown_names_are_refused(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: got '{value}'.*allowed: "):
        counts(CONV, **{argument: value})


def test_synops_as_neurobench_counts():
    # CONV is graded: 5 taps x 4 = 20 MACs; dense: 2 timesteps x 2 channels x 7x7 pairs x 4.
    # LINEAR is binary: 15 ACs, dense 4 x 18. Sums and poolings do not count.
    result = synops([CONV, ADD, POOL, LINEAR])
    assert result.to_dict() == {"effective_acs": 15, "effective_macs": 20, "dense": 784 + 72}
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
    return LayerRecord(
        "conv",
        "conv",
        (draw(st.integers(1, 2)) * groups, *size),
        (draw(st.integers(1, 2)) * groups, *out),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        timesteps=draw(st.integers(1, 3)),
        input_kind="spikes",
        levels_in=draw(st.integers(1, 4)),
        levels_out=draw(st.integers(1, 4)),
        neuron=True,
        leak=draw(st.booleans()),
        bias=draw(st.booleans()),
    )


@given(geometry())
def test_dense_taps_seen_from_the_input(record):
    """Every input position, asked one by one which outputs it reaches."""

    def outputs(axis, position):
        starts = (
            position + record.padding[axis] - offset * record.dilation[axis]
            for offset in range(record.kernel[axis])
        )
        reached = (divmod(start, record.stride[axis]) for start in starts)
        return sum(rest == 0 and 0 <= o < record.out_shape[axis + 1] for o, rest in reached)

    taps = sum(
        outputs(0, row) * outputs(1, column)
        for row in range(record.in_shape[1])
        for column in range(record.in_shape[2])
    )
    assert record.dense_taps == record.in_shape[0] * taps


@given(geometry(), st.floats(0, 1), st.floats(0, 1))
def test_counts_grow_with_density(record, one, other):
    low, high = (with_density([record], density)[0] for density in sorted((one, other)))
    for fanout in ("lemaire", "exact"):
        for graded_op in ("mac", "repeat"):
            fewer, more = (
                counts(r, fanout=fanout, graded_op=graded_op).to_dict() for r in (low, high)
            )
            assert all(0 <= fewer[name] <= more[name] * (1 + 1e-9) for name in fewer)


@given(geometry())
def test_full_density_is_the_dense_network(record):
    full = with_density([record], 1.0)[0]
    assert full.active_share == 1
    steps = record.timesteps
    exact = counts(full, fanout="exact", graded_op="repeat")
    assert exact.read_weights == steps * record.dense_taps * record.fan
    assert exact.read_weights == synops([full]).dense
    # Only the padding separates it from the dense count of the ANN.
    dense = counts(full, network="ann").mac
    assert record.dense_taps * record.fan <= dense
    if record.padding == (0, 0):
        assert record.dense_taps * record.fan == dense
    assert counts(full, network="qann_skip").mac == pytest.approx(dense)


def test_assumed_density_by_hand():
    record = with_density([replace(CONV, levels_in=4, levels_out=4)], 0.5)[0]
    assert (record.events_in, record.taps_in) == (50, 98)  # of 2 x 50 inputs, 2 x 2 x 49 pairs
    assert (record.amplitude_in, record.amplitude_taps_in) == (125, 245)  # mean of 1..4
    assert record.active_in == 0.75 * 50  # active at one timestep of two at least
    assert (record.events_out, record.amplitude_out, record.max_level) == (36, 90, 4)
    add = with_density([ADD], 0.25)[0]
    assert (add.events_in, add.shortcut_events, add.events_out) == (6, 6, 6)
    stem = LayerRecord("stem", "linear", (4,), (2,))
    assert with_density([stem], 0.1)[0].events_in == 4  # analog: all non-zero


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_density_outside_the_unit_interval(density):
    with pytest.raises(InputError, match=r"^density: got .*, allowed: a number in \[0, 1\]$"):
        with_density([CONV], density)


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (CONV, {"kind": "lstm"}),
        (CONV, {"input_kind": "spike"}),
        (CONV, {"out_shape": (4, 4, 4)}),
        (CONV, {"in_shape": (50,)}),
        (CONV, {"in_shape": (0, 5, 5)}),
        (CONV, {"stride": (0, 1)}),
        (CONV, {"kernel": (3,)}),
        (CONV, {"groups": 3}),
        (CONV, {"timesteps": 0}),
        (CONV, {"timesteps_out": 3}),
        (CONV, {"levels_in": 0}),
        (CONV, {"levels_out": 0}),
        (CONV, {"events_in": -1}),
        (CONV, {"events_in": float("nan")}),
        (CONV, {"events_in": 101}),
        (CONV, {"active_in": 3}),
        (CONV, {"taps_in": 19}),
        (CONV, {"amplitude_in": 1}),
        (CONV, {"amplitude_in": 7}),
        (CONV, {"amplitude_taps_in": 16}),
        (CONV, {"events_out": 73}),
        (CONV, {"amplitude_out": 19}),
        (CONV, {"amplitude_out": 5}),
        (CONV, {"max_level": 4}),
        (CONV, {"shortcut": "events"}),
        (CONV, {"shortcut_events": 1}),
        (LINEAR, {"taps_in": 4}),
        (LINEAR, {"groups": 3}),
        (LINEAR, {"kernel": (3, 3)}),
        (LINEAR, {"input_kind": "analog"}),
        (ADD, {"out_shape": (2, 2, 1)}),
        (ADD, {"shortcut": "dense"}),
        (ADD, {"shortcut_events": 25}),
        (POOL, {"out_shape": (1, 2, 2)}),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(record, change):
    with pytest.raises(InputError, match=rf"^{record.name}\.\w+: got [^\n]*allowed: [^\n]+$"):
        replace(record, **change)


def test_events_need_a_sender():
    with pytest.raises(InputError, match=r"^conv\.events_out: got 6, allowed: 0 where no neuron"):
        replace(CONV, neuron=False, leak=False)
    with pytest.raises(InputError, match=r"^conv\.leak: got True, allowed: False where no neuron"):
        replace(CONV, neuron=False, events_out=0)


def test_entry_of_a_result_file():
    assert CONV.to_dict() == {
        "name": "conv",
        "kind": "conv",
        "in_shape": [2, 5, 5],
        "out_shape": [4, 3, 3],
        "events_in": 2,
        "events_out": 6,
        "max_level": 2,
    }
