"""`multispike view`: a recording of an event camera as a picture, an animation or a page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from multispike.config.commands import FORMATS, ViewConfig
from multispike.config.types import parse_sensor
from multispike.events.view import read_view, write_view


def view(config: ViewConfig) -> None:
    """Write the picture and print what it shows: the command behind `multispike view`.

    Raises `InputError` for a recording that can't be read, see `read_events`.
    """
    window = config.window_us or (None if config.count else 20_000)
    shown = read_view(
        config.events,
        sensor=parse_sensor(config.sensor) if config.sensor else None,
        size=config.size,
        limit=config.frames or FORMATS[Path(config.out).suffix.lower()],
        window_us=window,
        count=config.count,
    )
    write_view(shown, config.out)
    console = Console(highlight=False)
    for name, value in [*shown.lines(), ("written", config.out)]:
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
