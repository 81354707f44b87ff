"""What cameras write: Prophesee's EVT2, EVT3 and DAT, jAER's AEDAT2, DV's AEDAT4.

EVT3 is decoded by the library evt3, the only one found that takes bytes as they come, goes on
behind damaged words and has the specified time. The others are decoded here: of EVT2 expelliarmus
never returns on some damaged files, faery ends at the first coordinate outside the sensor and can't
read a pipe, evlib holds whole files. Tonic's functions for AEDAT2 fail before they read a record
(1.7.0). The decoders of AEDAT4 (aedat, faery, dv-processing) end the process on some damaged file.

Formats: https://docs.prophesee.ai/stable/data/encoding_formats/index.html,
https://docs.prophesee.ai/stable/data/file_formats/dat.html and
https://docs.inivation.com/software/software-advanced-usage/file-formats/
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from multispike.events.codecs import DAMAGE, ByteSource, Columns, Decoded, require

HEADER_LINES = 256
"""Longest header that is believed; a real one has about ten lines."""

SENSORS = {"genx320": (320, 320), "imx636": (1280, 720), "gen4": (1280, 720), "gen3": (640, 480)}
"""`(width, height)` by what the header's names of plugin or sensor contain."""

LARGEST = (1280, 720)
"""Where the header doesn't tell: the largest sensor that was ever sold with these formats."""

ADDRESSED = 2048
"""Pixels a side that the formats' 11 bits can address."""

TIME_HIGH = 0x8
"""Type of a word: the upper bits of the time of all events behind it."""

RECORD = np.dtype([("address", ">u4"), ("t", ">u4")])
DAT_RECORD = np.dtype([("t", "<u4"), ("address", "<u4")])
AEDAT4_EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("", "V3")])

CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
"""What no line of text holds; a record's time does, for the first 144 s."""

END_OF_HEADER = re.compile(r"# ?end of ascii header", re.IGNORECASE)
"""Ends the header of newer files: what follows is a record, even if its first byte is a #."""

LARGEST_PACKET = 1 << 26
"""Bytes, decompressed too; DV's packets are a thousand times smaller."""


def decode_prophesee(source: ByteSource) -> Decoded:
    """Behind a header of lines with `% `: EVT2 or EVT3 (`% evt 2.0`, `% format EVT3`), or DAT."""
    lines = []
    while source.peek(2) == b"% " and len(lines) < HEADER_LINES:
        lines.append(source.line())
        if lines[-1] == "% end":
            break
    header = "\n".join(lines)
    if re.search("^% Data file containing", header, re.MULTILINE | re.IGNORECASE):
        return Decoded("DAT", _sensor(header, None), _dat(source, header))
    found = re.search(r"^% (?:evt |format EVT)(\d(?:\.\d)?)", header, re.MULTILINE | re.IGNORECASE)
    version = found[1].removesuffix(".0") if found else "unknown"
    decode = {"2": _evt2, "3": _evt3}.get(version)
    if decode is None:
        raise source.refused(f"EVT {version}", "EVT 2.0 or EVT 3.0")
    return Decoded(f"EVT{version}", _sensor(header, LARGEST), decode(source))


def _sensor(header: str, default: tuple[int, int] | None) -> tuple[int, int] | None:
    """`(width, height)`; the default if the header doesn't tell, or more than can be addressed.

    >>> _sensor("% format EVT3;height=720;width=1280", None), _sensor("% hal_plugin_gen3_fx3", None)
    ((1280, 720), (640, 480))
    """
    names = header.lower()
    width = re.search(r"(?:width[ =]|geometry )(\d+)", names)
    height = re.search(r"(?:height[ =]|geometry \d+x)(\d+)", names)
    if width and height:
        size = int(width[1]), int(height[1])
        return size if min(size) > 0 and max(size) <= ADDRESSED else default
    return next((size for name, size in SENSORS.items() if name in names), default)


def _dat(source: ByteSource, header: str) -> Iterator[Columns]:
    """Type of events and their size; then 32 bits of time and 14, 14 and 4 of x, y and p."""
    version = re.search(r"^% Version (\d+)", header, re.MULTILINE | re.IGNORECASE)
    kind = source.read(2)
    if not version or version[1] != "2" or kind not in (b"\x00\x08", b"\x0c\x08"):
        found = f"DAT {version[1] if version else 'without a version'} with events of {kind.hex()}"
        raise source.refused(found, "DAT 2 with CD events of 8 bytes (0008 or 0c08)")
    for _, data in source.words(DAT_RECORD.itemsize):
        records = np.frombuffer(data, DAT_RECORD)
        address = records["address"]
        x, y = (address & 0x3FFF).astype(np.int32), (address >> 14 & 0x3FFF).astype(np.int32)
        yield Columns(records["t"].astype(np.int64), x, y, address >> 28 & 1)


def _evt2(source: ByteSource) -> Iterator[Columns]:
    """32-bit words: 0/1: OFF/ON event with 6 bits of time and 11 + 11 of x and y; 8: the 28 bits of
    time above those 6."""
    high = -1
    known = (0x0, 0x1, TIME_HIGH, 0xA, 0xE, 0xF)
    for data, kinds in _pieces(source, "<u4", known, events=(0x0, 0x1)):
        words = np.frombuffer(data, "<u4")
        is_time, is_event = kinds == TIME_HIGH, kinds <= 1
        highs = np.append(high, (words[is_time] & 0x0FFFFFFF).astype(np.int64))
        latest = np.cumsum(is_time)
        if high < 0:
            is_event &= latest > 0
        high = int(highs[-1])
        events = words[is_event]
        t = highs[latest[is_event]] << 6 | (events >> 22 & 0x3F)
        yield Columns(t, events >> 11 & 0x7FF, events & 0x7FF, kinds[is_event])


def _evt3(source: ByteSource) -> Iterator[Columns]:
    """16-bit words, see the format; 2: an event; 4 and 5: up to 12 and 8 events."""
    import evt3

    # The largest size the format can address: what is outside the sensor is counted by the caller.
    decoder = evt3.Decoder(sensor_width=ADDRESSED, sensor_height=ADDRESSED)
    known = (0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, TIME_HIGH, 0xA, 0xE, 0xF)
    for data, _ in _pieces(source, "<u2", known, events=(0x2, 0x4, 0x5)):
        events = decoder.feed(data)
        yield Columns(events.t, events.x, events.y, events.p)


def _pieces(
    source: ByteSource, dtype: str, known: Sequence[int], events: Sequence[int]
) -> Iterator[tuple[bytes, np.ndarray]]:
    """The words as bytes, and the type of each, its top 4 bits.

    Words of a type that isn't known, and those with events before the first time, are counted.
    """
    size = np.dtype(dtype).itemsize
    unknown = ~np.isin(np.arange(16), known)
    timed = False
    for start, data in source.words(size):
        kinds = np.frombuffer(data, dtype) >> 8 * size - 4
        if np.bincount(kinds, minlength=16)[unknown].any():
            where = np.flatnonzero(unknown[kinds])
            first = start + size * int(where[0])
            source.skipped.add_bytes("words of unknown type", size * len(where), first)
        if not timed:
            latest = np.cumsum(kinds == TIME_HIGH)
            timed = bool(latest[-1])
            untimed = np.isin(kinds, events) & (latest == 0)
            count, first = size * int(untimed.sum()), start + size * int(untimed.argmax())
            source.skipped.add_bytes("before the first time stamp", count, first)
        yield data, kinds


class Address(NamedTuple):
    """Fields of an AEDAT2 address: shift and mask of x and y, which count from the lower right;
    shift of the polarity, and its bit for brighter; the bits that are set in a special event, such
    as a trigger, in what is no event, and in no address of this layout."""

    x: tuple[int, int]
    y: tuple[int, int]
    p: tuple[int, int]
    special: int
    no_event: int
    foreign: int


DVS128 = Address((1, 0x7F), (8, 0x7F), (0, 0), 1 << 31 | 1 << 15, no_event=0, foreign=0x7FFF << 16)
DAVIS = Address((12, 0x3FF), (22, 0x1FF), (11, 1), 1 << 10, no_event=1 << 31, foreign=0)

DAVIS_SIZES = {
    "128": (128, 128), "208": (208, 192), "240": (240, 180), "346": (346, 260), "640": (640, 480),
    "rgb640": (640, 480), "rgbw640": (320, 240),
}  # fmt: skip
"""`(width, height)` by what follows "davis" in the name of the chip. The RGBW640, or CDAVIS, has a
pixel for events for every four of its 640x480 for colours."""


def decode_aedat2(source: ByteSource) -> Decoded:
    """Records of address and time behind lines that start with `#`.

    The header of a DAVIS names its chip, by jAER; one without a number is taken for a DAVIS346.
    Without a name (v2e) a file is taken for a DAVIS's if the caller's sensor is one of those, and
    for a DVS128's otherwise. Orientation and polarity are those that jAER shows. Special and
    external events, which are no pixels, are left out and counted.
    """
    header = []
    while source.peek(1) == b"#" and not CONTROL.search(source.peek_line()):
        header.append(source.line())
        if END_OF_HEADER.fullmatch(header[-1]):
            break
    text = "\n".join(header).lower()
    told = source.sensor if source.sensor in DAVIS_SIZES.values() else None
    if "davis" in text:
        found = re.search(r"davis_?((?:rgbw?)?\d{3})", text)
        chip = "rgbw640" if "cdavis" in text else found[1] if found else ""
        size, layout = DAVIS_SIZES.get(chip) or told or DAVIS_SIZES["346"], DAVIS
    elif told and told != (128, 128):
        size, layout = told, DAVIS
    else:
        size, layout = (128, 128), DVS128
    return Decoded("AEDAT2", size, _records(source, size, layout))


def _records(source: ByteSource, size: tuple[int, int], layout: Address) -> Iterator[Columns]:
    (x, x_mask), (y, y_mask), (p, brighter) = layout.x, layout.y, layout.p
    for start, data in source.words(RECORD.itemsize):
        records = np.frombuffer(data, RECORD)
        address = records["address"].astype(np.uint32)
        no_event = address & layout.no_event != 0
        special = ~no_event & (address & layout.special != 0)
        foreign = ~no_event & ~special & (address & layout.foreign != 0)
        if 2 * foreign.sum() > len(records):
            sizes = ", ".join(f"{w}x{h}" for w, h in sorted(set(DAVIS_SIZES.values()))[1:])
            found = "AEDAT2 whose header names no chip and whose addresses are no DVS128's"
            allowed = f"with the sensor of a DAVIS, such as --sensor 346x260 (of {sizes})"
            raise source.refused(found, allowed)
        reasons = {"special or external": special, "not a DVS128's address": foreign}
        for reason, wrong in reasons.items():
            first = start + RECORD.itemsize * int(wrong.argmax())
            source.skipped.add(reason, int(wrong.sum()), "events", first, "byte")
        is_event = ~(no_event | special | foreign)
        address = address[is_event]
        yield Columns(
            t=records["t"][is_event].astype(np.int64),
            x=size[0] - 1 - (address >> x & x_mask).astype(np.int32),
            y=size[1] - 1 - (address >> y & y_mask).astype(np.int32),
            p=(address >> p & 1) == brighter,
        )


def decode_aedat4(source: ByteSource) -> Decoded:
    """The first stream of events in a file of DV; other streams (frames, IMU) are passed over."""
    source.read(14)  # "#!AER-DAT4.0\r\n"
    size = source.read(4)
    header = source.read(struct.unpack("<I", size)[0]) if len(size) == 4 else b""
    try:
        table = struct.unpack_from("<I", header)[0]
        compression = _value(header, table, 0, "<i", 0)
        end = _value(header, table, 1, "<q", -1)
    except struct.error:
        raise source.refused("AEDAT4 with a damaged header", "a whole header") from None
    if not 0 <= compression <= 4:
        raise source.refused(f"AEDAT4 compression {compression}", "none, LZ4 or Zstandard")
    sizes = [re.search(rb'key="size%b"[^>]*>(\d{1,5})<' % axis, header) for axis in (b"X", b"Y")]
    sensor = (int(sizes[0][1]), int(sizes[1][1])) if sizes[0] and sizes[1] else None
    return Decoded("AEDAT4", sensor, _packets(source, end, _decompressor(compression)))


def _packets(
    source: ByteSource, end: int, decompress: Callable[[bytes], bytes]
) -> Iterator[Columns]:
    """Events of the first event stream. end: where the packets end, or -1 if that isn't written."""
    stream = None
    while end < 0 or source.position < end:
        start = source.position
        head = source.read(8)
        number, size = struct.unpack("<ii", head) if len(head) == 8 else (0, 0)
        if not 0 <= size <= LARGEST_PACKET:
            lost = 8 + source.drain()
            source.skipped.add_bytes("behind a damaged packet header", lost, start)
            return
        body = source.read(size)
        if len(head) < 8 or len(body) < size:
            source.skipped.add_bytes("cut off within a packet", len(head) + len(body), start)
            return
        try:
            events = _events(decompress(body))
        except DAMAGE:
            events = None
            source.skipped.add_bytes("damaged packets", 8 + size, start)
        if events is not None and stream in (None, number):
            stream = number
            yield Columns(events["t"], events["x"], events["y"], events["p"] != 0)


def _events(packet: bytes) -> np.ndarray | None:
    """The vector of events in a size-prefixed flatbuffer; None for another kind of packet."""
    if packet[8:12] != b"EVTS":
        return None
    vector = _field(packet[4:], struct.unpack_from("<I", packet, 4)[0], 0)
    if vector is None:
        return np.empty(0, AEDAT4_EVENT)
    vector += 4
    vector += struct.unpack_from("<I", packet, vector)[0]
    count = struct.unpack_from("<I", packet, vector)[0]
    return np.frombuffer(packet, AEDAT4_EVENT, count, vector + 4)


def _field(buffer: bytes, table: int, index: int) -> int | None:
    """Where the field of a flatbuffer's table is, or None if it is left out."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if vtable < 0:
        raise struct.error("vtable before the buffer")
    slot = 4 + 2 * index
    if slot + 2 > struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, vtable + slot)[0]
    return table + offset if offset else None


def _value(buffer: bytes, table: int, index: int, format: str, default: int) -> int:
    """A number in a flatbuffer's table, or its default if it is left out."""
    place = _field(buffer, table, index)
    return default if place is None else struct.unpack_from(format, buffer, place)[0]


def _decompressor(compression: int) -> Callable[[bytes], bytes]:
    """By the number in the header: 0 none; 1, 2 LZ4; 3, 4 Zstandard; each fast or strong."""
    if compression == 0:
        return bytes
    if compression <= 2:
        lz4 = require("lz4.frame", "LZ4-compressed AEDAT4")
        return lambda data: lz4.LZ4FrameDecompressor().decompress(data, LARGEST_PACKET)
    zstandard = require("zstandard", "Zstandard-compressed AEDAT4")

    def decompress(data: bytes) -> bytes:
        try:
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                return reader.read(LARGEST_PACKET)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None

    return decompress
