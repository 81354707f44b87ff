"""Networks as others write them: what is right follows from their shapes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from multispike import MultiLevelIF, profile
from multispike.activity import record_activity


def labelled(x, samples=None):
    return [(x, torch.zeros(samples or len(x), dtype=torch.long))]


def nj(model, x, **options):
    return profile(model, labelled(x), **options).total_nj


def macs(model, x, **options):
    """Multiply-accumulates of a dense network, and what it leaves out."""
    report = profile(model, labelled(x), **options)
    assert report.network == "ann"
    return sum(layer.counts.mac for layer in report.layers), report.not_counted


def by_torch(model, x):
    with FlopCounterMode(display=False) as mode:  # with gradients: no fused attention
        model.eval()(x)
    return mode.get_total_flops() / 2 / len(x)


class Step(nn.Module):
    """Binary spikes without memory."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        return (x >= self.threshold).float()


# --- one price for one layer --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 1, 64), (1, 64), (8, 64)])
def test_rows_of_one_are_no_rows(shape):
    layer = nn.Linear(64, 64)
    assert nj(layer, torch.rand(shape)) == pytest.approx(nj(layer, torch.rand(4, 64)))


@pytest.mark.parametrize("spiking", [False, True])
def test_windows_folded_into_the_batch_are_rows(spiking):
    class Windows(nn.Module):
        def __init__(self, folded):
            super().__init__()
            self.folded, self.first, self.act = folded, nn.Linear(8, 8), nn.ReLU()
            self.act = Step(0.1) if spiking else nn.ReLU()
            self.last = nn.Linear(8, 2)

        def forward(self, x):
            x = x.flatten(0, 1) if self.folded else x
            return self.last(self.act(self.first(x))).reshape(4, -1, 2).mean(1)

    torch.manual_seed(0)
    apart, folded, x = Windows(False), Windows(True), torch.rand(4, 6, 5, 8)
    folded.load_state_dict(apart.state_dict())
    reports = [profile(model, labelled(x)) for model in (apart, folded)]
    assert [report.network for report in reports] == ["snn" if spiking else "ann"] * 2
    assert reports[0].total_nj == pytest.approx(reports[1].total_nj)
    assert reports[1].layers[0].record.geometry.in_shape == (30, 8)


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_tokens_cost_the_same_whatever_the_batch(batch):
    torch.manual_seed(0)
    tokens = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    expected = 8 * nj(tokens, torch.ones(3, 32))  # but for the size of the memories
    assert nj(tokens, torch.ones(batch, 8, 32)) == pytest.approx(expected, rel=0.05)
    assert nj(tokens, torch.ones(batch, 8, 32)) == nj(tokens, torch.ones(5, 8, 32))


# --- every multiplication -------------------------------------------------------------------------


class Module(nn.Module):
    """A forward around one parameter."""

    def __init__(self, run, *shape):
        super().__init__()
        self.run, self.w = run, nn.Parameter(torch.rand(shape))

    def forward(self, x):
        return self.run(x, self.w)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **options)
        self.out = nn.Linear(32, 2)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0].mean(1))


def dense(*layers, features=1):
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(features, 2))


CASES = {
    "x @ W": (Module(lambda x, w: x @ w, 4, 2), (2, 4), 8),
    "W @ x": (Module(lambda x, w: w @ x, 5, 4), (2, 4, 3), 60),
    "addmm": (Module(lambda x, w: torch.addmm(torch.ones(2), x, w), 4, 2), (2, 4), 8),
    "einsum": (Module(lambda x, w: torch.einsum("bhi,hio->bho", x, w), 3, 4, 5), (2, 3, 4), 60),
    "bmm with parameters": (Module(lambda x, w: (x @ w).flatten(1), 3, 4, 5), (2, 3, 6, 4), 360),
    "attention": (Attention(), (2, 16, 32), 65_536 + 16_384 + 64),
    "attention, masked": (Attention(add_bias_kv=True), (2, 16, 32), None),
    "transposed": (dense(nn.ConvTranspose2d(3, 4, 2, 2), features=1024), (2, 3, 8, 8), 3072 + 2048),
    "transposed 1d": (
        dense(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), features=96), (2, 4, 8), 8 * 4 * 3 * 3 + 192
    ),
    "3d": (dense(nn.Conv3d(2, 3, (1, 3, 3)), features=3 * 4 * 16), (2, 2, 4, 6, 6), None),
    "pooled 3d": (
        nn.Sequential(nn.Conv3d(2, 3, 3), nn.MaxPool3d(2), nn.AvgPool3d(2), nn.Flatten()),
        (2, 2, 8, 8, 8), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_multiplications_are_those_that_torch_counts(case):
    model, shape, expected = CASES[case]
    x = torch.rand(shape)
    found, _ = macs(model, x)
    assert found == by_torch(model, x)
    assert expected is None or found == expected


@pytest.mark.parametrize("masked", [None, "mask", "causal"])
def test_attention_sends_what_torch_sends(masked):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.project(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            mask = torch.ones(5, 5, dtype=torch.bool).tril() if masked == "mask" else None
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=masked == "causal")

    torch.manual_seed(0)
    model, seen, x = Scaled(), [], torch.rand(3, 5, 8)
    model.register_forward_hook(lambda module, args, out: seen.append(out))
    found, notes = macs(model, x)
    assert torch.allclose(seen[0], model(x), atol=1e-6)
    assert found == 5 * 8 * 24 + 2 * 2 * 5 * 5 * 4
    assert not [line for line in notes if "no rule" in line]


def flat(found):
    return [found] if isinstance(found, torch.Tensor) else [x for part in found for x in flat(part)]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_recurrent_layers_are_linear_layers_over_time(kind, options):
    torch.manual_seed(0)
    net = kind(5, 4, batch_first=True, **options)
    seen, x = [], torch.rand(3, 7, 5)
    net.register_forward_hook(lambda module, args, out: seen.append(out))
    found, notes = macs(net, x)
    for sent, expected in zip(*map(flat, (seen[0], net(x))), strict=True):
        assert torch.allclose(sent, expected)
    assert found == 7 * sum(p.numel() for name, p in net.named_parameters() if "weight" in name)
    assert any("gates" in line for line in notes)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(cell):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = cell(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            state = None
            for t in range(6):
                state = self.cell(x[:, t], state)
            return self.out(state[0] if isinstance(state, tuple) else state)

    found, _ = macs(Loop(), torch.rand(3, 6, 5))
    weights = [p for name, p in cell(5, 4).named_parameters() if "weight" in name]
    assert found == 6 * sum(map(torch.numel, weights)) + 8


def test_spikes_times_spikes_are_additions():
    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 4) for _ in range(3))
            self.fire = nn.ModuleList(Step(0.0) for _ in range(3))

        def forward(self, x):
            q, k, v = (
                fire(part(x))
                for fire, part in zip(self.fire, (self.q, self.k, self.v), strict=True)
            )
            return (q @ k.transpose(1, 2)) @ v

    torch.manual_seed(0)
    model, sent = Spiking(), []
    for fire in model.fire:
        fire.register_forward_hook(lambda module, args, out: sent.append(out))
    report = profile(model, labelled(torch.randn(3, 5, 6)))
    scores, values = (layer for layer in report.layers if layer.kind == "matmul")
    assert (scores.counts.mac, scores.counts.ac) == (0, sent[0].sum().item() / 3 * 5)
    assert values.record.input.events == sent[2].sum().item() / 3  # events come first: those of v
    assert (values.counts.mac, values.counts.ac) == (0, sent[2].sum().item() / 3 * 5)


def test_what_is_left_out_has_a_size():
    twice = Module(lambda x, w: torch.einsum("bi,ij,jk->bk", x, w, w), 6, 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), twice)
    expected = by_torch(model, torch.rand(2, 6))
    found, notes = macs(model, torch.rand(2, 6))
    assert found == 36
    share = (expected - 36) / expected
    assert notes == (f"einsum at 2: no rule counts it, {share:.1%} of all multiply-accumulates",)


# --- neurons --------------------------------------------------------------------------------------


def test_iand_with_a_silent_side():
    class Iand(nn.Module):
        def __init__(self, threshold):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.fires, self.inverted = Step(-9.0), Step(threshold)

        def forward(self, x):
            k = self.fires(self.a(x))
            return self.c(k * (1 - self.inverted(self.b(k))))

    total = record_activity(Iand(9.0), labelled(torch.rand(2, 4))).records[2]
    assert (total.input.events, total.crossing.events, total.output.events) == (0, 4, 4)


def test_a_neuron_that_is_silent_first_and_analog_later():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = 0.0

        def forward(self, x):
            self.v = self.v + x
            return torch.relu(self.v - 1.0)

        def reset(self):
            self.v = 0.0

    class OverTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.neuron, self.pool = Late(), nn.MaxPool2d(2)
            self.first.bias.data += 0.2

        def forward(self, x):
            steps = [self.second(self.pool(self.neuron(self.first(x)))) for _ in range(4)]
            return torch.stack(steps).sum(0).mean((2, 3))

    torch.manual_seed(0)
    activity = record_activity(OverTime(), labelled(torch.rand(2, 3, 10, 10) * 0.4))
    assert [record.name for record in activity.records][:3] == ["first", "pool", "second"]
    assert [record.timesteps for record in activity.records][:3] == [1, 4, 4]
    assert not activity.spiking


def test_a_sum_pool_is_a_pooling():
    def record(pool):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), Step(0.1), pool, nn.Flatten(), nn.Linear(64, 3)
        )
        return record_activity(model, labelled(torch.ones(2, 2, 8, 8)))

    average, total = record(nn.AvgPool2d(2)), record(nn.LPPool2d(1, 2))
    assert total.neurons == average.neurons
    assert total.records == average.records
    assert not total.not_counted


def test_ternary_spikes_are_levels_with_a_sign():
    class Ternary(nn.Module):
        def forward(self, x):
            return (x > 0.2).float() - (x < -0.2).float()

    torch.manual_seed(0)
    model, sent = nn.Sequential(nn.Linear(6, 8), Ternary(), nn.Linear(8, 3)), []
    model[1].register_forward_hook(lambda module, args, out: sent.append(out))
    report = profile(model, labelled(torch.randn(5, 6)))
    events = sent[0].count_nonzero().item() / 5
    assert (sent[0] < 0).any()
    assert report.network == "snn"
    assert report.layers[1].record.input.events == report.layers[1].record.input.amplitude == events
    assert report.layers[1].counts.mac == 0


def test_joined_neurons_of_unequal_thresholds_send_binary_events():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 3, 3), nn.Conv2d(5, 2, 1)
            self.fire = nn.ModuleList([Step(0.0), Step(0.1)])

        def forward(self, x):
            parts = self.fire[0](self.a(x)), 0.7 * self.fire[1](self.b(x))
            return self.last(torch.cat(parts, 1)).flatten(1)

    torch.manual_seed(0)
    last = profile(Joined(), labelled(torch.randn(4, 1, 6, 6))).layers[-1]
    assert last.record.levels_in == 1
    assert last.record.input.events == last.record.input.amplitude > 0
    assert last.counts.mac == 0


def test_encoders_recorded_potentials_and_means_are_no_neurons():
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.fire = nn.Linear(6, 4), Step(0.0)

        def forward(self, x):
            drive, spikes = [], []
            for _ in range(3):
                drive.append(self.fc((torch.rand_like(x) < x).float()))
                spikes.append(self.fire(drive[-1]))
            torch.stack(drive)
            return torch.stack(spikes).mean(0)

    activity = record_activity(Encoded(), labelled(torch.rand(5, 6)))
    assert not [line for line in activity.not_counted if line.startswith("neuron at")]
    assert [row.name for row in activity.neurons] == ["fire"]


def test_a_recurrent_network_has_rows_by_module():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.back, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.fire = Step(0.2)

        def forward(self, x):
            spikes, total = x.new_zeros(len(x), 6), 0
            for t in range(40):
                spikes = self.fire(self.inner(x[:, t]) + self.back(spikes))
                total = total + self.out(spikes)
            return total

    activity = record_activity(Recurrent(), labelled(torch.randn(3, 40, 4)))
    assert len(activity.records) <= 8
    by_name = {record.name: record for record in activity.records}
    assert by_name["inner"].timesteps == by_name["out"].timesteps == 40


class Cell(nn.Module):
    """A potential and synaptic currents, all returned; a decay, or one for each neuron."""

    def __init__(self, currents=0, beta=0.9, **parts):
        super().__init__()
        self.currents, self.beta = currents, beta
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, state=None):
        *currents, v = state or [torch.zeros_like(x)] * (self.currents + 1)
        currents = [0.8 * current + x for current in currents]
        v = self.beta * v + sum(currents, x)
        spikes = (v >= 0.4).float()
        return spikes, (*currents, v - 0.4 * spikes)


class OverTime(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.fc, self.fire, self.last = nn.Linear(4, 6), cell, nn.Linear(6, 2)

    def forward(self, x):
        state, total = None, 0
        for x_t in x.unbind(1):
            spikes, state = self.fire(self.fc(x_t), state)
            total = total + self.last(spikes)
        return total


def first_layer(cell):
    torch.manual_seed(0)
    report = profile(OverTime(cell), labelled(torch.rand(3, 5, 4)))
    return report.layers[0], report.not_counted


@pytest.mark.parametrize("currents", [1, 2])
def test_further_state_variables_are_read_decayed_added_and_written(currents):
    """As in Synaptic, Alpha, CUBA and cells with a current: 5 timesteps of 6 neurons."""
    (one, _), (many, notes) = first_layer(Cell()), first_layer(Cell(currents))
    sent = many.record.output.events - one.record.output.events
    assert many.record.neuron.states == 1 + currents
    assert many.counts.mul - one.counts.mul == currents * 30
    assert many.counts.ac - one.counts.ac == pytest.approx(currents * 30 + sent)
    assert many.counts.read_potential - one.counts.read_potential == currents * 30
    assert many.counts.write_potential - one.counts.write_potential == currents * 30
    assert not [line for line in notes if line.startswith("neuron at")]


QUADRATIC = {
    "mul": lambda v: (v + 0.1) * (v - 0.8),
    "pow": lambda v: v**2,
    "square": torch.square,
    "exp": lambda v: torch.exp(v - 1),
}


class Izhikevich(nn.Module):
    """A potential and a recovery, kept: dv = further(v) + x - w, dw = v - w."""

    def __init__(self, further):
        super().__init__()
        self.further, self.v, self.recovery = further, None, None

    def reset(self):
        self.v = self.recovery = None

    def forward(self, x, state=None):
        v = torch.zeros_like(x) if self.v is None else self.v
        w = torch.zeros_like(x) if self.recovery is None else self.recovery
        v = v + 0.5 * (self.further(v) + x - w)
        spikes = (v >= 0.3).float()
        self.recovery = w + 0.3 * (v - w) + 0.2 * spikes
        self.v = (1 - spikes) * v - 0.1 * spikes
        return spikes, None


@pytest.mark.parametrize("name", QUADRATIC)
def test_quadratic_and_exponential_terms_are_named_beside_both_states(name):
    """As in Izhikevich's neuron, which must not pass for a leaky one."""
    (_, plain), (layer, notes) = map(first_layer, map(Izhikevich, (torch.abs, QUADRATIC[name])))
    line = f"neuron at fire: its quadratic or exponential terms ({name}) are not counted"
    assert layer.record.neuron.states == 2
    assert set(notes) - set(plain) == {f"{line}: 6 neurons at each timestep"}


def test_terms_of_a_step_that_is_one_operation_are_named_by_their_parameters():
    cell = Izhikevich(torch.abs)
    cell.v_c = 0.8
    assert any("exponential terms (v_c) are not counted" in line for line in first_layer(cell)[1])


def test_parameters_of_each_neuron_are_read():
    own = nn.Parameter(torch.full((6,), 0.9))
    (one, _), (many, _) = first_layer(Cell()), first_layer(Cell(beta=own))
    assert many.record.neuron.parameters == (6,)
    assert many.counts.read_bias - one.counts.read_bias == 30
    assert many.memories["bias"].elements - one.memories["bias"].elements == 6


def test_an_event_that_is_fed_back_is_one_more_addition():
    (one, _), (fed, _) = first_layer(Cell()), first_layer(Cell(recurrent=nn.Identity()))
    sent = one.record.output.events
    assert sent > 0
    assert fed.counts.ac - one.counts.ac == pytest.approx(sent)
    reads = fed.counts.read_potential - one.counts.read_potential
    assert reads == pytest.approx(sent)


def test_state_around_a_recurrent_layer_is_named_with_its_size():
    class Recurrent(nn.Module):
        """As RSynaptic."""

        def __init__(self):
            super().__init__()
            self.recurrent = nn.Linear(6, 6)

        def forward(self, x, state=None):
            current, v, sent = state or [torch.zeros_like(x)] * 3
            current = 0.8 * current + x + self.recurrent(sent)
            v = 0.9 * v + current
            sent = (v >= 0.4).float() * 1.0
            return sent, (current, v - 0.4 * sent, sent)

    _, notes = first_layer(Recurrent())
    line = (
        "neuron at fire: its leak and 2 state variables are not counted: 6 multiplications, reads"
    )
    assert [note for note in notes if note.startswith(line)]


def test_a_neuron_written_out_in_the_forward_names_what_it_hides():
    class Written(OverTime):
        def __init__(self, keeps):
            super().__init__(None)
            self.keeps = keeps

        def forward(self, x):
            v, total = 0, 0
            for x_t in x.unbind(1):
                v = self.keeps * v + self.fc(x_t)
                spikes = (v >= 0.4).float()
                v, total = self.keeps * (v - 0.4 * spikes), total + self.last(spikes)
            return total

    torch.manual_seed(0)
    notes = record_activity(Written(0.9), labelled(torch.rand(3, 5, 4))).not_counted
    (line,) = (line for line in notes if line.startswith("neuron at"))
    assert "only its events are counted, of " in line


def test_state_that_is_kept_beside_time_is_counted():
    class Kept(nn.Module):
        """As sinabs: [B, T, F], buffers of one timestep."""

        def __init__(self):
            super().__init__()
            self.register_buffer("current", torch.zeros(3, 6))
            self.register_buffer("v", torch.zeros(3, 6))

        def reset_states(self):
            self.current, self.v = torch.zeros(3, 6), torch.zeros(3, 6)

        def forward(self, x):
            sent = []
            for x_t in x.unbind(1):
                self.current = 0.8 * self.current + x_t
                self.v = self.v + self.current
                sent.append((self.v >= 0.4).float())
            return torch.stack(sent, 1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Kept(), nn.Linear(6, 2))
    activity = record_activity(model, labelled(torch.rand(3, 5, 4)))
    assert activity.records[0].neuron.states == 2
    assert not [line for line in activity.not_counted if line.startswith("neuron at 1")]


@pytest.mark.parametrize("spiking", [False, True])
def test_embeddings_read_rows_and_multiply_nothing(spiking):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.each, self.bag = nn.Embedding(50, 4), nn.EmbeddingBag(50, 3)
            self.fire = Step(0.0) if spiking else nn.ReLU()
            self.last = nn.Linear(31, 2)

        def forward(self, words):
            found = torch.cat([self.each(words).flatten(1), self.bag(words)], 1)
            return self.last(self.fire(found))

    torch.manual_seed(0)
    report = profile(Words(), labelled(torch.randint(0, 50, (5, 7))))
    each, bag, *_ = report.layers
    for layer, rows, size in ((each, 7, 4), (bag, 1, 3)):
        assert layer.counts.mac == 0
        assert layer.counts.read_input == 7
        assert layer.counts.read_weights == 7 * size
        assert layer.memories["weights"].elements == 50 * size
        assert layer.counts.ac == (7 * size if spiking else (7 - rows) * size)
    assert report.layers[-1].counts.read_weights <= 62
    assert report.synops.dense == 62


def test_leaks_of_other_libraries_by_name():
    class Cell(nn.Module):
        def __init__(self, **constants):
            super().__init__()
            for name, value in constants.items():
                setattr(self, name, value)

        def forward(self, x):
            return (x >= 0.1).float()

    torch.manual_seed(0)
    found = []
    for constants in ({"tau_mem": torch.tensor(20.0)}, {"tau_mem": torch.tensor(float("inf"))}, {}):
        model = nn.Sequential(nn.Linear(4, 6), Cell(**constants), nn.Linear(6, 2))
        found.append(record_activity(model, labelled(torch.rand(3, 4))).records[0].neuron.leak)
    assert found == [True, False, False]


def test_buffers_and_potentials_are_afterwards_what_they_were():
    class Norm(nn.BatchNorm1d):
        def reset(self):
            self.reset_running_stats()

    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = torch.full((2, 4), 0.25)

        def reset(self):
            self.v = torch.zeros(2, 4)

        def forward(self, x):
            self.v = self.v + x
            return (self.v > 1).float()

    model = nn.Sequential(nn.Linear(4, 4), Norm(4), Cell())
    model[1].running_mean.fill_(7.0)
    record_activity(model, labelled(torch.rand(2, 4)))
    assert model[1].running_mean.tolist() == [7.0] * 4
    assert model[2].v.unique().tolist() == [0.25]


def test_without_a_bias_there_are_no_additions_of_one():
    torch.manual_seed(0)
    model = nn.Sequential(
        Step(0.5), nn.Linear(6, 4, bias=False), Step(0.2), nn.Linear(4, 2, bias=False)
    )
    first = profile(model, labelled(torch.rand(5, 6))).layers[0]
    events, sent = first.record.input.events, first.record.output.events
    assert first.counts.ac == events * 4 + sent
    assert first.counts.read_potential == events * 4 + 4  # the threshold is compared all the same


def test_a_graded_event_costs_a_multiplication_more_than_a_binary_one():
    """A 3x3 convolution, 16 to 32 channels, the same places as 1 or as levels 1 to 4: 11.5 and 12.2
    uJ. SpikingJelly's profiler, which takes levels for dense activations, has 12.9 and 36.4."""

    class Sends(nn.Module):
        def __init__(self, levels):
            super().__init__()
            self.neuron = MultiLevelIF(levels, float(levels))
            self.conv = nn.Conv2d(16, 32, 3, padding=1, bias=False)

        def forward(self, x):
            return self.conv(self.neuron(x)).mean((2, 3))

    generator = torch.Generator().manual_seed(0)
    places = (torch.rand(1, 16, 16, 16, generator=generator) < 0.2).float()
    graded = places * torch.randint(1, 5, places.shape, generator=generator)
    one, many = (
        profile(Sends(levels), labelled(x)).layers[0] for levels, x in ((1, places), (4, graded))
    )
    met = one.counts.ac
    assert (many.counts.mac, many.counts.ac) == (met, 0)
    multiplications = met * 3.1e-3  # nJ, at 32 bits
    assert many.energy_nj.ops - one.energy_nj.ops == pytest.approx(multiplications)
    assert many.energy_nj.weights == one.energy_nj.weights
    assert many.memories["inputs"].bits - one.memories["inputs"].bits == 2  # the queue of events
    assert many.energy_nj.total / 1e3 == pytest.approx(12.2, abs=0.05)


def test_a_silent_block_is_no_neuron():
    """A batch norm that starts with weights 0, then squeeze and excitation (timm's seresnet18):
    zeros times a gate are no spikes, and the network stays an ANN."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.squeeze = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.gate = Gated()
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return (x + self.gate(self.norm(self.conv(x)))).relu()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Block(), nn.Conv2d(4, 4, 3)).eval()
    images = torch.rand(1, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        model(images)
    report = profile(model, labelled(images))
    assert report.network == "ann"
    assert sum(layer.counts.mac for layer in report.layers) == counter.get_total_flops() / 2
