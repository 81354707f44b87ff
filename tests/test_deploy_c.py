"""The C program against the integer reference: bit for bit, sanitized, without warnings."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
from test_deploy_integer import CASES, MEAN, NAMES, SHAPE, STD, images, integer, realistic, thin

from multispike.errors import InputError
from multispike.export import c as c_export
from multispike.export.c import export_c
from multispike.export.c_program import Program
from multispike.export.network import count
from multispike.export.quantise import quantise

FUNCTION = re.compile(r"^[a-z][^;{}#]*?\b(\w+)\([^;{}]*\)\n\{(.*?)^\}", re.DOTALL | re.MULTILINE)
"""Name and body."""

needs_cc = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("make")), reason="needs a C compiler and make"
)


RUNTIME = Path(c_export.__file__).parent / "runtime"

STRICT = (
    "-Weverything",
    "-Wno-declaration-after-statement",  # C90's rule; the programs are C99
    "-Wno-padded",  # holes in structs of constants cost nothing
    "-Wno-unsafe-buffer-usage",  # of clang 16 and later: all of C's pointers
    "-Wno-unknown-warning-option",  # for earlier ones, which don't know the last
)
"""All warnings of clang but these."""

CPP = """\
#include <cstdio>
#include "kernels.h"
#include "model.h"
int main()
{
    static uint8_t input[MODEL_INPUT_BYTES];
    int32_t logits[MODEL_CLASSES];
    static const char *const names[] = MODEL_CLASS_NAMES;
    while (std::fread(input, 1, sizeof input, stdin) == sizeof input) {
        int best = 0;
        if (model_run(input, sizeof input, logits, MODEL_CLASSES) != MODEL_OK)
            return 1;
        for (int i = 0; i < MODEL_CLASSES; ++i) {
            std::printf("%ld ", static_cast<long>(logits[i]));
            best = logits[i] > logits[best] ? i : best;
        }
        std::printf("\\t%s\\n", names[best]);
    }
}
"""


def make(folder, target="check"):
    """Build without optimisation: what is tested is the same, compiling takes half as long."""
    command = ["make", "-s", "-C", str(folder), "CFLAGS=-O0", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    assert done.returncode == 0
    return folder / ("model" if target == "model" else f"model-{target}")


def run(program, *arguments, stdin=None):
    return subprocess.run([program, *arguments], input=stdin, capture_output=True)


def logits(done) -> np.ndarray:
    assert done.returncode == 0, done.stderr
    lines = [line.split(b"\t") for line in done.stdout.splitlines()]
    values = np.array([numbers.split() for numbers, _ in lines], dtype=np.int64)
    assert [int(name) for _, name in lines] == values.argmax(1).tolist()  # unnamed: numbers
    return values


@needs_cc
@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_c_equals_the_reference_and_counts_the_same(arch, options, timesteps, levels, tmp_path):
    network = integer(arch, timesteps, levels, **options)
    pixels = images(3, seed=4)
    np.save(tmp_path / "images.npy", pixels.numpy())
    export_c(network, tmp_path / "c")
    done = run(make(tmp_path / "c"), tmp_path / "images.npy")
    assert np.array_equal(logits(done), network.forward(pixels))
    assert len(np.unique(logits(done))) > 1

    counts = count(network, pixels)
    counted = {}
    for line in done.stderr.decode().splitlines():
        kind, name, *values = line.split()
        counted[kind, name] = [*map(int, values)]
    assert counted == {name: values.tolist() for name, values in counts.items()}
    assert all(values[0] > 0 for (kind, _), values in counts.items() if kind == "neurons")


@needs_cc
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("arch", ["fastnet", "ms_resnet"])
def test_a_program_in_cpp_links_it(arch, tmp_path):
    """Its header differs in numbers only."""
    network = integer(arch)
    export_c(network, tmp_path)
    (tmp_path / "main.cpp").write_text(CPP)
    (tmp_path / "main.c").unlink()
    sources = sorted(path.name for path in tmp_path.glob("*.c") if path.name != "mps2.c")
    flags = ["-O0", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", "-std=c99", *flags, "-c", *sources], cwd=tmp_path, check=True)
    objects = [source.replace(".c", ".o") for source in sources]
    command = ["g++", *flags, "-pedantic", "main.cpp", *objects, "-o", "run"]
    subprocess.run(command, cwd=tmp_path, check=True)
    pixels = images(2, seed=4)
    done = run(tmp_path / "run", stdin=pixels.numpy().tobytes())
    assert np.array_equal(logits(done), network.forward(pixels))


@pytest.mark.skipif(not shutil.which("clang"), reason="needs clang")
@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_clang_has_nothing_to_say(arch, options, timesteps, levels, tmp_path):
    export_c(integer(arch, timesteps, levels, **options), tmp_path)
    for build in ("-DPLAIN", "-DCOUNT"):
        assert said_by_clang(tmp_path, build, "main.c", "model.c") == ""
    assert said_by_clang(tmp_path, *(path.name for path in tmp_path.glob("weights*.c"))) == ""


def said_by_clang(folder: Path, *arguments: str) -> str:
    command = ["clang", "-std=c99", "-fsyntax-only", "-Werror", *STRICT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


@pytest.mark.skipif(not shutil.which("clang"), reason="needs clang")
@pytest.mark.parametrize("build", ["-DPLAIN", "-DDENSE", "-DCOUNT"])
def test_clang_has_nothing_to_say_of_kernels(build):
    """They are the same in every program."""
    assert said_by_clang(RUNTIME, build, "kernels.c") == ""


@needs_cc
def test_names_of_classes_are_printed_whatever_they_are(tmp_path):
    names = ('a "b" %d \\', "*/ ??/", "café", "", "two\nlines")
    network = replace(integer("sparse_resnet"), classes=names)
    export_c(network, tmp_path)
    pixels = images(20, seed=4)
    done = run(make(tmp_path, "model"), stdin=pixels.numpy().tobytes())
    printed = [line.split("\t")[1] for line in done.stdout.decode().splitlines()]
    wanted = [names[i].replace("\n", " ") for i in network.forward(pixels).argmax(1)]
    assert printed == wanted
    readme = (tmp_path / "README.md").read_text()
    assert json.dumps(names, ensure_ascii=False) in readme
    assert "mean [0.4, 0.5], std [0.2, 0.3]" in (tmp_path / "model.h").read_text()
    with pytest.raises(InputError, match=r"^classes: got '2 of them', allowed: 5, or none"):
        replace(network, classes=("a", "b"))


@needs_cc
@pytest.mark.parametrize("timesteps", [1, 3])
def test_event_frames(timesteps, tmp_path):
    network = quantise(realistic("sparse_resnet", timesteps, 2), MEAN, STD, SHAPE, events=True)
    frames = images(4, seed=5, frames=timesteps)
    export_c(network, tmp_path / "c")
    samples = frames.transpose(0, 1).contiguous().numpy()
    program = make(tmp_path / "c")
    done = run(program, stdin=samples.tobytes())
    assert np.array_equal(logits(done), network.forward(frames))
    np.save(tmp_path / "samples.npy", samples)
    assert run(program, tmp_path / "samples.npy").stdout == done.stdout
    np.save(tmp_path / "time_first.npy", frames.numpy())
    assert (run(program, tmp_path / "time_first.npy").returncode == 2) == (timesteps > 1)


@needs_cc
def test_dense_build_computes_the_same(tmp_path):
    network = integer("sew_resnet", stem="imagenet")
    pixels = images(3, seed=6)
    export_c(network, tmp_path / "c")
    done = run(make(tmp_path / "c", "dense"), stdin=pixels.numpy().tobytes())
    assert np.array_equal(logits(done), network.forward(pixels))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "c"
    export_c(integer("sparse_resnet"), folder)
    return make(folder)


@needs_cc
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "input: is empty"),
        (bytes(125), "input: image 0 has 125 bytes, allowed: 126"),
        (bytes(127), "input: image 1 has 1 bytes, allowed: 126"),
        (bytes(3), "input: image 0 has 3 bytes, allowed: 126"),
        (np.zeros((1, *SHAPE), np.float32), "not uint8 in C order"),
        (np.zeros((1, *SHAPE), np.int8), "not uint8 in C order"),
        (np.zeros((2, *SHAPE), np.uint8, order="F"), "not uint8 in C order"),
        (np.zeros((1, 9, 7, 2), np.uint8), "last axes of the .npy array are not 2, 9, 7"),
        (np.zeros((12, 9, 7), np.uint8), "last axes of the .npy array are not 2, 9, 7"),
        (np.zeros(126, np.uint8), "last axes of the .npy array are not 2, 9, 7"),
        (b"\x93NUMPY\x01\x00\xff\x00{", "header is truncated"),
        (b"\x93NUMPY\x03\x00\xff\x00{", "not a version 1"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not a version 1"),
    ],
)
def test_bad_input_is_an_error_code_and_one_line(program, content, message, tmp_path):
    if isinstance(content, np.ndarray):
        np.save(tmp_path / "x.npy", content)
        content = (tmp_path / "x.npy").read_bytes()
    done = run(program, stdin=content)
    first = done.stderr.decode().splitlines()[0]
    assert done.returncode == 2
    assert first.startswith("model: ")
    assert message in first


@needs_cc
@pytest.mark.parametrize(("cut", "images"), [(126, 2), (252, 1), (-126, 4), (378, 0)])
def test_as_many_images_as_the_header_says(program, cut, images, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, *SHAPE), np.uint8))
    content = (tmp_path / "x.npy").read_bytes()
    done = run(program, stdin=content[:-cut] if cut > 0 else content + bytes(-cut))
    message = f"model: input: holds {images} images, its header says 3"
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (2, message)


@needs_cc
@pytest.mark.parametrize("arguments", [("absent.bin",), ("a", "b")])
def test_bad_usage(program, arguments):
    done = run(program, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(b"model: ")


@needs_cc
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 3, 3)])
def test_images_smaller_than_a_header(size, tmp_path):
    model = thin("fastnet", in_channels=size[0], num_classes=3)
    network = quantise(model, [0.5] * size[0], [0.25] * size[0], size)
    pixels = np.random.default_rng(0).integers(0, 256, (20, *size), dtype=np.uint8)
    export_c(network, tmp_path / "c")
    program = make(tmp_path / "c")
    np.save(tmp_path / "images.npy", pixels)
    for done in (run(program, stdin=pixels.tobytes()), run(program, tmp_path / "images.npy")):
        assert np.array_equal(logits(done), network.forward(pixels))
    done = run(program, stdin=pixels.tobytes()[:-1] if pixels[0].size > 1 else b"")
    assert done.returncode == 2


@needs_cc
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_logits_that_cannot_be_written_are_an_error(program):
    with open("/dev/full", "w") as full:
        pixels = images(2).numpy().tobytes()
        done = subprocess.run([program], input=pixels, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == b"model: output: could not be written"


@needs_cc
def test_model_run_checks_its_arguments(tmp_path):
    """The library call returns an error code and leaves the logits alone."""
    export_c(integer("sparse_resnet"), tmp_path / "c")
    (tmp_path / "c" / "main.c").write_text("""\
#include "model.h"
#include <stdio.h>
int main(void)
{
    static uint8_t input[MODEL_INPUT_BYTES];
    int32_t logits[MODEL_CLASSES] = {7};
    printf("%d %d %d %d ", model_run(input, MODEL_INPUT_BYTES - 1, logits, MODEL_CLASSES),
           model_run(NULL, MODEL_INPUT_BYTES, logits, MODEL_CLASSES),
           model_run(input, MODEL_INPUT_BYTES, logits, MODEL_CLASSES - 1),
           model_run(input, MODEL_INPUT_BYTES, NULL, MODEL_CLASSES));
    printf("%d ", (int)logits[0]);
    printf("%d\\n", model_run(input, sizeof input, logits, MODEL_CLASSES));
    return 0;
}
""")
    assert run(make(tmp_path / "c")).stdout == b"1 1 2 2 7 0\n"


def outer_braces_on_lines(code: str) -> str:
    """Preprocessed code as `FUNCTION` expects it."""
    depth, text = 0, ""
    for character in code:
        depth -= character == "}"
        at_border = depth == 0 and character in "{}"
        text = text.rstrip() + f"\n{character}\n" if at_border else text + character
        depth += character == "{"
    return re.sub(r"^ +", "", text, flags=re.MULTILINE)


@needs_cc
def test_generated_code_has_no_malloc_float_or_recursion(tmp_path):
    export_c(integer("fastnet"), tmp_path / "c")
    calls = {}
    for path in (tmp_path / "c").glob("*.c"):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(malloc|calloc|realloc|alloca|float|double)\b", code), path.name
        if path.name == "kernels.c":  # whose functions are macros in part
            command = ["cc", "-E", "-P", str(path)]
            code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            code = outer_braces_on_lines(code)
        for name, body in FUNCTION.findall(code):
            calls.setdefault(name, set()).update(re.findall(r"\b(\w+)\(", body))
    assert calls["model_run"] >= {"conv_events", "fire"}
    assert {"main", "conv_events", "sum_pool"} <= calls.keys()
    TopologicalSorter(calls).prepare()  # raises for a circle
    code = (tmp_path / "c" / "model.c").read_text()
    assert "conv_events(v_neuron2, &conv2, z_neuron1);" in code


def test_export_into_a_full_folder_needs_overwrite(tmp_path):
    network = integer("sparse_resnet")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^folder: got .*overwrite"):
        export_c(network, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    export_c(network, tmp_path, overwrite=True)
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert not list(tmp_path.glob("*.tmp"))
    for name in ("weights7.c", "weights_mine.c"):  # of a larger network; of somebody else
        (tmp_path / name).write_text("")
    export_c(network, tmp_path, overwrite=True)
    assert [path.name for path in sorted(tmp_path.glob("weights*.c"))] == [
        "weights0.c",
        "weights_mine.c",
    ]
    with pytest.raises(InputError, match=r"^folder: got"):
        export_c(network, tmp_path / "note.txt", overwrite=True)


def test_an_interrupted_overwrite_leaves_the_earlier_program(tmp_path, monkeypatch):
    def interrupted(path, text):
        if path.name == "model.c":
            raise KeyboardInterrupt
        path.write_text(text)

    export_c(integer("sparse_resnet"), tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    monkeypatch.setattr(c_export, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_c(integer("sew_resnet"), tmp_path, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("arch", ["fastnet", "ms_resnet", "sew_resnet"])
def test_buffers_alive_together_do_not_overlap(arch, timesteps):
    program = Program(integer(arch, timesteps, 1))
    for a in program.buffers:
        assert a.offset + a.size <= program.arenas[a.dtype]
        for b in program.buffers:
            if a is not b and a.dtype == b.dtype and a.overlaps(b):
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    everything = sum(buffer.size for buffer in program.buffers)
    assert sum(program.arenas.values()) < everything


@needs_cc
def test_readme_states_the_memory_of_the_program(tmp_path):
    """The object file's data and constants are what the README says, up to descriptors and code."""
    network = integer("sparse_resnet", timesteps=3, levels=1)
    program = export_c(network, tmp_path / "c")
    readme = (tmp_path / "c" / "README.md").read_text()
    assert f"| RAM, static buffers | {program.ram:,} " in readme
    weights = int(re.search(r"int8 weights \| ([\d,]+)", readme)[1].replace(",", ""))
    assert f"| flash, other tables | {program.flash - weights:,} |" in readme
    objects = [tmp_path / f"{name}.o" for name in ("model", "weights0")]
    for path in objects:
        source = tmp_path / "c" / f"{path.stem}.c"
        subprocess.run(["cc", "-std=c99", "-Os", "-c", "-o", path, source], check=True)
    sizes = subprocess.run(["size", *objects], capture_output=True, text=True, check=True).stdout
    rows = [[int(word) for word in line.split()[:3]] for line in sizes.splitlines()[1:]]
    text, data, bss = np.sum(rows, axis=0)
    assert program.ram <= bss < program.ram + 256
    assert program.flash <= text + data < program.flash + 20_000
