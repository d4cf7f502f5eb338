"""Hostile files: each gives one clear error within 200 MB and 10 seconds of processor time."""

import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import hostile_corpus
import pytest
from hostile_corpus import CORPUS, HONEST, LARGE

import fastmlp
from fastmlp.datasets import files, idx

linux = pytest.mark.skipif(sys.platform != "linux", reason="address space and processor time are limited on Linux")

# Reads a list of jobs from the file in its argument, and prints a verdict for each. Each job runs in a child process
# of its own, which may use 200 MB of address space on top of the imported modules.
RUNNER = """
import gzip, json, os, resource, signal, sys, warnings
from pathlib import Path
import numpy as np
from fastmlp import datasets
from fastmlp.datasets import files, idx

def spin(path):
    while True:
        pass

READERS = {
    "load": datasets.load,
    "read_idx": idx.read,
    "gunzip": lambda path: gzip.decompress(Path(path).read_bytes()),
    "unpickle": lambda path: np.load(path, allow_pickle=True)["x_train"],
    "abort": lambda path: os.abort(),
    "block": lambda path: Path(path).read_bytes(),
    "spin": spin,
}

def limit(job):
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 200_000_000
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(job["wall"])
    if job["unprivileged"] and os.geteuid() == 0:
        os.setuid(65534)

def verdict(job):
    try:
        READERS[job["reader"]](job["path"])
    except BaseException as error:
        return {"class": type(error).__name__, "refused": isinstance(error, (ValueError, OSError)), "text": str(error)}
    return {"class": "accepted", "refused": False, "text": ""}

def run(job):
    out, into = os.pipe()
    child = os.fork()
    if not child:
        warnings.simplefilter("error")
        limit(job)
        os.write(into, json.dumps(verdict(job)).encode()[:60000])
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.wait4(child, 0)[1])
    return json.loads(said) if status == 0 else {"class": f"status {status}", "refused": False, "text": ""}

print(json.dumps([run(job) for job in json.loads(Path(sys.argv[1]).read_text())]))
"""


@pytest.fixture(scope="module")
def judge():
    """Return a function that builds hostile files and reads each in a limited child: {name: verdict}."""

    def judged(corpus, folder, seconds=10, wall=60):
        jobs = []
        for number, (name, hostile) in enumerate(corpus.items()):
            place = folder / str(number)
            place.mkdir(parents=True)
            path = str(hostile.make(place))
            limits = {"seconds": seconds, "wall": wall, "unprivileged": "locked" in name}
            jobs.append({"reader": hostile.reader, "path": path, **limits})
        (folder / "jobs").write_text(json.dumps(jobs))
        command = [sys.executable, "-c", RUNNER, str(folder / "jobs")]
        environment = {**os.environ, "PYTHONPATH": str(Path(fastmlp.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=True)
        assert not done.stderr
        return dict(zip(corpus, json.loads(done.stdout), strict=True))

    return judged


@pytest.fixture(scope="module")
def verdicts(judge, tmp_path_factory):
    return judge(CORPUS, tmp_path_factory.mktemp("hostile"))


@linux
@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_file_gives_one_clear_error(verdicts, name):
    verdict = verdicts[name]
    assert verdict["refused"], verdict
    text = verdict["text"]
    where, _, rest = text.partition(": got ")
    assert "hostile" in where  # the path
    assert ", expected " in rest
    assert "; " in rest
    assert text.isprintable()
    assert len(text) < 700
    assert [word for word in CORPUS[name].words.split() if word not in text] == [], text


@linux
def test_unpickling_nothing_springs_no_trap(judge, tmp_path):
    judge({"pickle": CORPUS["place: pickle"]}, tmp_path)
    assert not list(tmp_path.rglob("sprung"))


@linux
def test_honest_files_pass_under_the_same_limits(judge, tmp_path):
    honest = {**HONEST, **{f"large {name}": large for name, large in LARGE.items()}}
    found = {name: verdict["class"] for name, verdict in judge(honest, tmp_path).items()}
    assert found == dict.fromkeys(honest, "accepted")


@linux
def test_the_limits_catch_careless_readers(judge, tmp_path):
    careless = {
        "memory": CORPUS["IDX: honest bomb"]._replace(reader="gunzip"),
        "pickle": CORPUS["place: pickle"]._replace(reader="unpickle"),
        "crash": CORPUS["IDX: empty"]._replace(reader="abort"),
        "processor": CORPUS["IDX: empty"]._replace(reader="spin"),
    }
    found = {name: verdict["class"] for name, verdict in judge(careless, tmp_path / "a", seconds=1).items()}
    blocking = {"pipe": CORPUS["place: pipe"]._replace(reader="block")}
    found |= {name: verdict["class"] for name, verdict in judge(blocking, tmp_path / "b", wall=1).items()}
    assert found == {
        "memory": "MemoryError",
        "pickle": "accepted",
        "crash": f"status {-signal.SIGABRT}",
        "pipe": f"status {-signal.SIGALRM}",
        "processor": f"status {-signal.SIGXCPU}",
    }
    assert list(tmp_path.rglob("sprung"))


@pytest.mark.parametrize("kind", HONEST)
def test_damage_anywhere_is_refused_or_harmless(tmp_path, kind):
    make = (
        HONEST[kind].make if kind != "IDX in gz" else hostile_corpus.file("x.gz", gzip.compress(hostile_corpus.SMALL))
    )
    path = make(tmp_path)
    damaged = path if path.is_file() else path / "train-images-idx3-ubyte"
    read = idx.read if HONEST[kind].reader == hostile_corpus.READ else files.load
    whole, chance = damaged.read_bytes(), random.Random(kind)
    for _ in range(300):
        content = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(4) if content else 0):
            content[chance.randrange(min(len(content), 2000))] = chance.choice(
                [0, 1, 0x7F, 0xFF, chance.randrange(256)]
            )
        damaged.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with contextlib.suppress(ValueError):  # any other error fails, and so does a warning
                read(path)
