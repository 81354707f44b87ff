"""`multispike energy`: what a run, an architecture or any PyTorch network costs, by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from multispike.activity import record_activity
from multispike.commands.evaluate import samples_bar
from multispike.config import TrainConfig
from multispike.config.energy import OF_CODE, EnergyConfig
from multispike.datasets.loader import BatchLoader
from multispike.device import device_for
from multispike.energy.profiles import list_profiles
from multispike.energy.twins import RunPrices, price_run
from multispike.errors import invalid
from multispike.layer_record import with_density
from multispike.models import create_model
from multispike.models.own import OwnNetwork, check_taken, code_of
from multispike.models.table import ARCHITECTURES
from multispike.plugins import label
from multispike.pretrained import find
from multispike.report.comparison import alternatives
from multispike.report.document import give, terminal_table
from multispike.report.terminal import energy_notes, energy_table, networks_table, twins_table
from multispike.results import Activity
from multispike.training import load_data, load_run
from multispike.training.data import EVALUATION_BATCH, data_of, evaluation_loader
from multispike.training.run import tell_unfinished


@dataclass(frozen=True)
class Priced:
    """A network's prices, where its events come from, and what JSON says of it."""

    name: str
    prices: RunPrices
    events: str
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.about, **self.prices.to_json()}

    def notes(self) -> list[str]:
        return energy_notes(self.prices, self.name, self.events)


def energy(settings: EnergyConfig) -> None:
    """Price one network, layer by layer, beside its twins; or two, side by side."""
    first = priced(settings.target, settings)
    if settings.against is None:
        tables = [energy_table(first.prices, first.name)]
        if first.prices.crossover:
            verdict = terminal_table(alternatives(first.prices), "What the verdict turns on")
            tables += [twins_table(first.prices), verdict]
        return give(settings.json, first.to_json(), *tables, *first.notes())
    second = priced(settings.against, settings)
    table = networks_table([(first.name, first.prices), (second.name, second.prices)])
    notes = dict.fromkeys(first.notes() + second.notes())  # each but once
    return give(settings.json, {**first.to_json(), "against": second.to_json()}, table, *notes)


def priced(target: str, settings: EnergyConfig) -> Priced:
    """A network at its measured activity, or an assumed one.

    Raises:
        InputError: for a network that can't be built or run, or a density without spikes.
    """
    if find(target).exists():
        network, activity, data = _of_run(target, settings)
    else:
        network, activity, data = _built(target, settings)
    density = settings.density
    if density is not None and not activity.spiking:
        raise invalid("density", density, f"only with spiking neurons, which {target} has not")
    if density is None and data is None and activity.spiking:
        density = 0.2
    prices = price_run(
        activity.records if density is None else with_density(activity.records, density),
        settings.profile,
        settings.bits,
        spiking=activity.spiking,
        fanout=settings.fanout,
        graded_op=settings.graded_op,
        not_counted=activity.not_counted,
        profiles=list_profiles(),
    )
    code, kind = code_of(network), "ANN"
    if activity.spiking:
        steps = max(record.timesteps for record in activity.records)
        levels = max(layer.levels for layer in activity.neurons if layer.path != "sum")
        kind = f"T{steps} N{levels}"
        if code["neuron"] == "relu":  # neurons of another library
            code |= {"neuron": "other", "levels": levels, "timesteps": steps}
    events = f"measured on {data} (n = {activity.samples:,})"
    if density is not None:
        events = f"assumed, density {density:g}"
    samples = activity.samples if data else None
    about = {**code, "data": data, "samples": samples, "assumed_density": density}
    return Priced(f"{code['arch']} {kind}", prices, events, about)


def _of_run(target: str, settings: EnergyConfig) -> tuple[torch.nn.Module, Activity, str]:
    """A run's network, and its activity on its own test samples."""
    run = load_run(target, device=device_for(settings.accelerator))
    tell_unfinished(run)
    dataset = data_of(run, settings.data_dir, settings.limit_test)
    with samples_bar("activity", dataset) as progress:
        loader = evaluation_loader(run, dataset)
        activity = record_activity(run.network, loader, progress=progress)
    return run.network, activity, label(run.data["name"])


def _built(target: str, settings: EnergyConfig) -> tuple[torch.nn.Module, Activity, str | None]:
    """A new network, and its activity on test samples, or one sample of ones."""
    device = device_for(settings.accelerator)
    shape, classes, dataset = settings.shape, settings.classes, None
    if settings.data is not None:
        source = TrainConfig(
            data=settings.data, data_dir=settings.data_dir, limit_test=settings.limit_test
        )
        dataset = load_data(source, settings.timesteps)
        shape, classes = dataset.input_shape, dataset.num_classes
    options = {name: getattr(settings, name) for name in OF_CODE}
    if target not in ARCHITECTURES:
        changed = {n: v for n, v in options.items() if v != getattr(EnergyConfig, n)}
        check_taken(target, changed)
    network = create_model(target, num_classes=classes, in_channels=shape[0], **options).to(device)
    if dataset is None:
        model = network.module if isinstance(network, OwnNetwork) else network
        batch = torch.ones(1, *shape), torch.zeros(1, dtype=torch.long)
        return network, record_activity(model, [batch]), None
    loader = BatchLoader(
        dataset.test, EVALUATION_BATCH, mean=dataset.mean, std=dataset.std, device=device
    )
    with samples_bar("activity", dataset) as progress:
        activity = record_activity(network, loader, progress=progress)
    return network, activity, label(settings.data or "")
