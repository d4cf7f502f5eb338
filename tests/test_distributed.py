"""Training over the processes of MPI: the bits of one process, whatever the split, and one end for all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import cli, launch
from fastmlp.distributed import plans

HEAD = """
import hashlib, os, signal, sys, time
import numpy as np, fastmlp
from fastmlp import optimizers
from mpi4py import MPI
comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
x = rng.integers(1, 256, size=(30, 2001)).astype(np.uint8) * (rng.random((30, 2001)) < 0.3)
labels, w = rng.integers(4, size=2001), rng.random(2001)
targets = rng.random((4, 2001))

def digest(model, h):
    facts = h.loss, h.scores, h.validation_loss, h.validation_scores, h.stopped
    return hashlib.sha256(model.parameters.tobytes() + repr(facts).encode()).hexdigest()

def share(split):
    cut = {"even": np.linspace(0, 2001, comm.size + 1).astype(int),
           "unequal": [0, 700, 701, 1999][: comm.size] + [2001],
           "empty": [0, 0, 2001, 2001][: comm.size] + [2001]}[split]
    return slice(int(cut[comm.rank]), int(cut[comm.rank + 1]))

def few(some):
    return slice(min(some.start, 600), min(some.stop, 600))

def say(*words):  # in one piece, or the lines of processes would mix
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def packed(x):
    return fastmlp.pack(x, scale=1/255) if x.size else None
"""
# Every leaf has few samples, so that these make up some leaves.
SMALL_LEAVES = "from fastmlp.kernels import inputs; inputs.CHUNK = 150\n"
SPLITS = {1: ["even"], 2: ["even", "empty"], 3: ["unequal", "empty"]}


def test_shares_are_whole_leaves():
    for m, leaf, size in [(95, 10, 3), (95, 10, 20), (95, 95, 3), (1, 5, 2), (40, 10, 4)]:
        cuts = plans.sample_cuts(m, leaf, size)
        assert cuts == sorted(cuts)
        assert (len(cuts), cuts[0], cuts[-1]) == (size + 1, 0, m)
        assert all(cut % leaf == 0 or cut == m for cut in cuts)


def test_each_sample_moves_once_to_where_it_is_wanted(rng):
    for _ in range(100):
        held, wanted = ([0, *sorted(rng.integers(0, 30, 3).tolist()), 30] for _ in range(2))
        owner = np.full(30, -1)
        for move in plans.moves(held, wanted):
            assert held[move.source] <= move.first < move.stop <= held[move.source + 1]
            assert (owner[move.first : move.stop] == -1).all()
            owner[move.first : move.stop] = move.target
        assert owner.tolist() == np.repeat(np.arange(4), np.diff(wanted)).tolist()


class Started:
    """Processes of mpiexec that run a script."""

    def __init__(self, code, ranks, backend="numpy", words=(), **env):
        pytest.importorskip("mpi4py")
        mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if mpiexec is None:
            pytest.skip("no mpiexec")
        folders = [str(Path(fastmlp.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "FASTMLP_BACKEND": backend} | env
        code = HEAD + (SMALL_LEAVES if backend == "numpy" else "") + code if not words else code
        words = [mpiexec, "-n", str(ranks), sys.executable, "-W", "ignore", "-c", code, *words]
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, *, check=True, timeout=120):
        try:
            out, err = self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
        assert not check or self.process.returncode == 0, err
        return out, err

    def number(self):
        """Return the next number that a process prints."""
        return int(self.process.stdout.readline())


def run(code, ranks, backend="numpy", **env):
    return Started(code, ranks, backend, **env).end()[0].split()


TRAIN = """
from fastmlp.distributed import ranks
ranks._MOVED_BYTES = 5000  # samples move in many blocks
kw = dict(epochs=4, progress=False, patience=3)
for split in SPLITS:
    s = share(split)
    one, v = [x, x / 255][split == "even"], few(s)
    for loss, optimizer, batch in [("cross_entropy", None, None), ("squared_error", optimizers.LBFGS(), None),
                                   ("cross_entropy", optimizers.Adam(0.1), None),
                                   ("squared_error", optimizers.Adam(0.01), 100)]:
        y = labels if loss == "cross_entropy" else targets
        form = packed if split != "even" else (lambda x: x)
        model = fastmlp.MLP((30, 9, 4), loss=loss, seed=comm.rank)
        history = model.fit(form(one[:, s]), y[..., s], sample_weight=w[s], optimizer=optimizer, comm=comm,
                            batch_size=batch, validation=(x[:, v] / 255, y[..., v]), **kw)
        alone = fastmlp.MLP((30, 9, 4), loss=loss, seed=0)
        expected = alone.fit(form(one), y, sample_weight=w, optimizer=optimizer,
                             batch_size=batch, validation=(x[:, :600] / 255, y[..., :600]), **kw)
        say(digest(model, history) == digest(alone, expected))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("ranks", SPLITS)
def test_ranks_train_as_one_process(backend, ranks, threads):
    if backend == "numpy" and threads == 2:
        pytest.skip("the threads of BLAS may change bits")
    code = f"SPLITS = {SPLITS[ranks]}\n" + TRAIN
    printed = run(code, ranks, backend, FASTMLP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS="2")
    assert printed == ["True"] * 4 * ranks * len(SPLITS[ranks])


PACKED = """
from fastmlp import batches, blocks, feeding, packs
blocks.BLOCK_BYTES = 10_000
if comm.rank == 0:
    fastmlp.pack(x, scale=1/255, path=PATH)
comm.Barrier()
batches.BUFFER = feeding.BUFFER = packs.BUFFER = 5 if MEMORY < 10**6 else 99
P = fastmlp.open_pack(PATH, memory=MEMORY)
say(P.blocks > 5 and P.is_small() == (MEMORY > 10**6))
for batch, optimizer in (None, optimizers.LBFGS()), (90, optimizers.Adam(0.05)):
    kw = dict(epochs=3, progress=False, sample_weight=w, batch_size=batch, optimizer=optimizer, validation=(P, labels))
    model, alone = fastmlp.MLP((30, 9, 4), seed=comm.rank), fastmlp.MLP((30, 9, 4))
    history = model.fit(P, labels, comm=comm, **kw)
    say(digest(model, history) == digest(alone, alone.fit(P, labels, **kw)))
try:
    model.fit(P, labels + (comm.rank == 1), comm=comm)
except ValueError as error:
    say("same on all ranks" in str(error))
"""


@pytest.mark.parametrize("memory", [10**8, 150_000])  # larger and smaller than the file and the samples in memory
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_a_packed_file(backend, ranks, memory, tmp_path):
    code = f"PATH, MEMORY = {str(tmp_path / 'a.pack')!r}, {memory}\n" + PACKED
    assert run(code, ranks, backend) == ["True"] * 4 * ranks


OF_OTHER_DENSITY = "x = np.repeat(x, 4, axis=0); x[:, :1100] = rng.integers(1, 256, size=(120, 1100))"


@pytest.mark.parametrize("data", ["x = x[:, :100]", OF_OTHER_DENSITY])
def test_few_samples_and_parts_of_other_density_train_as_one_process(backend, data):
    code = f"""
{data}
m = x.shape[1]
s = slice(m * comm.rank // comm.size, m * (comm.rank + 1) // comm.size)
model, alone = (fastmlp.MLP((len(x), 5, 4), seed=0) for _ in range(2))
history = model.fit(x[:, s] / 255, labels[:m][s], epochs=3, progress=False, comm=comm)
say(digest(model, history) == digest(alone, alone.fit(x / 255, labels[:m], epochs=3, progress=False)))
"""
    assert run(code, 2, backend) == ["True"] * 2


def test_what_is_known_of_all_samples_is_what_one_process_knows():
    code = """
from fastmlp import distributed
x = np.minimum(x, 9) / 1.0
x[0, 1998] = 255  # a sample that is searched, and that the last rank holds
with distributed.team(comm) as team:
    found, one = team.matrix("X", x[:, share("even")], 30, "float64"), fastmlp.pack(x)
say((found.largest, found.density, found.looks_unscaled()) == (255, one.density, one.looks_unscaled()))
"""
    assert run(code, 3) == ["True"] * 3


@pytest.mark.parametrize("batch", [None, 90])
def test_a_run_that_was_killed_on_three_ranks_is_resumed_on_two_and_on_one(tmp_path, batch):
    kw = f"epochs=8, progress=False, checkpoint={str(tmp_path / 'run')!r}, checkpoint_every=0"
    kw += f", optimizer=optimizers.Adam(0.1), batch_size={batch}"
    form = "packed({})" if batch is None else "{} / 255"
    killed = f"""
def stop(epoch, history):
    if epoch == 4 and comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
s = share("unequal")
fastmlp.MLP((30, 9, 4)).fit({form.format("x[:, s]")}, labels[s], comm=comm, callback=stop, {kw})
"""
    started = Started(killed, 3)
    started.end(check=False)
    assert started.process.returncode != 0
    resumed = f"""
model, s = fastmlp.MLP((30, 9, 4)), share("even")
part = ({form.format("x[:, s]")}, labels[s]) if comm.size > 1 else ({form.format("x")}, labels)
history = model.fit(*part, comm=comm if comm.size > 1 else None, resume=True, {kw})
alone = fastmlp.MLP((30, 9, 4))
expected = alone.fit({form.format("x")}, labels, epochs=8, progress=False,
                     optimizer=optimizers.Adam(0.1), batch_size=BATCH)
say(digest(model, history) == digest(alone, expected))
"""
    resumed = resumed.replace("BATCH", str(batch))
    shutil.copy(tmp_path / "run", tmp_path / "kept")
    assert run(resumed, 2) == ["True"] * 2
    shutil.copy(tmp_path / "kept", tmp_path / "run")
    assert run(resumed, 1) == ["True"]


FOREVER = """
def tell(epoch, history):
    if epoch == 1 and comm.rank == 1:
        say(os.getpid())
s = share("even")
fastmlp.MLP((30, 9, 4)).fit(x[:, s] / 255, labels[s], epochs=10**6, progress=False, callback=tell, comm=comm)
"""


@pytest.mark.parametrize(("how", "said"), [(signal.SIGKILL, ""), (signal.SIGSTOP, "rank 1 has been silent for 4 s")])
def test_all_end_if_a_rank_is_killed_or_stopped(how, said):
    started = Started(FOREVER, 3, FASTMLP_SILENCE="4")
    os.kill(started.number(), how)
    _, err = started.end(check=False, timeout=30)
    assert started.process.returncode != 0
    assert said in err


def test_a_rank_that_works_for_long_is_not_silent():
    code = """
def wait(epoch, history):
    if comm.rank == 1:
        time.sleep(5)
s = share("even")
say(fastmlp.MLP((30, 9, 4)).fit(x[:, s], labels[s], epochs=1, progress=False, callback=wait, comm=comm).stopped)
"""
    assert run(code, 2, FASTMLP_SILENCE="3") == ["epochs"] * 2


@pytest.mark.parametrize("more", ["alpha=0.1", "batch_size=90, optimizer=optimizers.Adam()"])
def test_all_end_after_the_same_update_if_one_rank_gets_ctrl_c(more):
    code = FOREVER.replace("callback=tell", f"callback=tell, {more}").replace(
        "fastmlp.MLP", "signal.signal(signal.SIGINT, signal.default_int_handler)\nmodel = fastmlp.MLP"
    )
    code = code.replace("model = fastmlp.MLP((30, 9, 4)).fit", "model = fastmlp.MLP((30, 9, 4))\nhistory = model.fit")
    started = Started(code + "say(history.stopped, len(history), digest(model, history))", 3)
    os.kill(started.number(), signal.SIGINT)
    out, _ = started.end(timeout=30)
    lines = out.split("\n")[:-1]
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert lines[0].startswith("interrupt ")


def test_ctrl_c_after_the_last_update_of_one_rank_is_in_the_record_of_all():
    code = """
from fastmlp import training
signal.signal(signal.SIGINT, signal.default_int_handler)
ends = training._Loop._write
def struck(loop):
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
    ends(loop)
training._Loop._write = struck
s = share("even")
say(fastmlp.MLP((30, 9, 4)).fit(x[:, s], labels[s], epochs=2, progress=False, comm=comm).stopped)
"""
    assert run(code, 3) == ["interrupt"] * 3


FAULTS = {
    "callback": ("callback=lambda *_: comm.rank == 1 and 1 / 0", "rank 1 of 3 failed: ZeroDivisionError"),
    "rows": ("", "rank 1 of 3 failed: ValueError: Y: got an array of shape (5,)"),
    "epochs": ("epochs=4 + comm.rank // 2", "epochs 4 on rank 0 and 5 on rank 2"),
    "dtype": ("", "got samples of dtype float64, uint8, float64"),
    "version": ("", "version 0.1 on rank 0 and 0.2 on rank 1"),
    "nan": ("", "got nan at row 3, column 1100 of all ranks' samples"),
    "schedule": (
        "optimizer=optimizers.Adam(lambda u, _: 0.01 if comm.rank != 1 or u < 40 else 1 / 0), batch_size=90",
        "rank 1 of 3 failed: ZeroDivisionError",
    ),
    "diverged": ("alpha=1e300", "the loss or the parameters stopped being finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_on_one_rank_ends_all_and_names_it(fault):
    words, said = FAULTS[fault]
    code = f"""
s = share("even")
X, y = x[:, s] / 255, labels[s]
if {fault!r} == "rows" and comm.rank == 1: y = y[:5]
if {fault!r} == "dtype" and comm.rank == 1: X = x[:, s]
if {fault!r} == "nan" and comm.rank == 1: X[3, 1100 - s.start] = np.nan
if {fault!r} == "version":
    from fastmlp.distributed import ranks
    ranks.__version__ = "0.2" if comm.rank == 1 else "0.1"
try:
    fastmlp.MLP((30, 9, 4)).fit(X, y, comm=comm, **(dict(epochs=4, progress=False) | dict({words})))
except Exception as error:
    say({said!r} in str(error), type(error).__name__)
"""
    printed = run(code, 3)
    ending = {
        "callback": "RankError",
        "rows": "RankError",
        "schedule": "RankError",
        "diverged": "FloatingPointError",
    }.get(fault, "ValueError")
    # The rank itself raises its own error.
    own = 1 if fault in ("callback", "rows", "schedule") else 0
    assert printed.count("True") == 3 - own
    assert printed.count(ending) == 3 - own


def test_without_mpi4py_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"needs mpi4py.*\[mpi\]"):
        fastmlp.MLP((1, 2)).fit([[1.0, 2.0]], [0, 1], comm="world")


def test_something_else_than_a_communicator_is_refused():
    pytest.importorskip("mpi4py")
    with pytest.raises(TypeError, match="comm: got str"):
        fastmlp.MLP((1, 2)).fit([[1.0, 2.0]], [0, 1], comm="world")


def test_a_share_moves_nothing():
    code = """
from fastmlp import distributed
from fastmlp.distributed.messages import Messages
Messages.moved = None
s = distributed.share(2001, 30, comm)
fastmlp.MLP((30, 9, 4)).fit(x[:, s], labels[s], epochs=1, progress=False, comm=comm)
say(s.stop - s.start)
"""
    assert sum(map(int, run(code, 3))) == 2001


COMMAND = "from fastmlp import cli; raise SystemExit(cli.main())"
TRAIN_DIGITS = "train digits --hidden 9 --epochs 3 --threads 1 --validation 0.2 --batch-size 100"


@pytest.mark.parametrize("more", ["", "--optimizer gd"])
def test_the_command_line_trains_over_ranks_as_alone(tmp_path, more):
    pytest.importorskip("sklearn")
    files = [tmp_path / "several.safetensors", tmp_path / "alone.safetensors"]
    words = TRAIN_DIGITS.replace("--batch-size 100", more or "--batch-size 100").split()
    several, alone = (
        Started(COMMAND, ranks, words=(*words, "--save", str(file))).end()
        for ranks, file in zip((3, 1), files, strict=True)
    )
    assert files[0].read_bytes() == files[1].read_bytes()
    lines, expected = (out.splitlines() for out, _ in (several, alone))
    assert len(lines) == len(expected)
    epochs = [[line.rpartition("  ")[0] for line in some if line.startswith("epoch")] for some in (lines, expected)]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 3


@pytest.mark.parametrize("more", ["--batch-size 100", "--optimizer gd"])
def test_ranks_of_the_command_line_share_a_packed_file(tmp_path, more):
    pytest.importorskip("sklearn")
    with fastmlp.use_backend("numpy"):
        assert cli.main(["pack", "digits", "--to", str(tmp_path / "digits.pack")]) == 0
    words = ["train", str(tmp_path / "digits.pack"), *f"--hidden 9 --epochs 3 {more} --save".split()]
    for ranks in (3, 1):
        Started(COMMAND, ranks, words=(*words, str(tmp_path / str(ranks)))).end()
    assert (tmp_path / "3").read_bytes() == (tmp_path / "1").read_bytes()


def test_an_error_of_the_command_line_on_one_rank_ends_all_in_one_line():
    code = """
import os, sys
from fastmlp import cli, launch
sys.argv[2] = "nothing" if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1" else "digits"
raise SystemExit(cli.main())
"""
    pytest.importorskip("sklearn")
    started = Started(code, 3, words=("train", "digits", "--epochs", "3"))
    _, err = started.end(check=False)
    assert started.process.returncode == 2
    assert [line for line in err.splitlines() if line.startswith("fastmlp:")] == [
        "fastmlp: rank 1 failed: DATA: got nothing, expected digits, fashion_mnist, mnist, or an existing path; "
        "check its spelling"
    ]


PLACES = {
    "MPICH": ({"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}, (1, 3)),
    "Open MPI": ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "1"}, (1, 3)),
    "MVAPICH2": ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "3"}, (1, 3)),
    "PMIx under Slurm": ({"PMIX_RANK": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "8"}, (1, 3)),
    "PMIx": ({"PMIX_RANK": "1"}, (1, None)),
    "a script of Slurm, outside srun": ({"SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, (0, 1)),
    "none": ({"PMI_RANK": "", "PMIX_RANK": "x"}, (0, 1)),
}


@pytest.mark.parametrize("launcher", PLACES)
def test_the_place_of_a_process_is_that_which_its_launcher_tells(launcher, monkeypatch):
    variables, expected = PLACES[launcher]
    for name in [one for pair in launch._VARIABLES for one in pair if one]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.place() == expected


def test_a_launcher_of_pmix_does_not_tell_how_many_and_mpi_does():
    """The variables of PMIx take the place of those that this launcher has set and that MPI itself has read."""
    code = """
from fastmlp import launch
comm.size  # MPI is initialised
rank = os.environ.pop("PMI_RANK", None) or os.environ.pop("OMPI_COMM_WORLD_RANK")
os.environ["PMIX_RANK"] = str(int(rank) + EXTRA)
try:
    crew = launch.Crew()
    say(crew.rank, crew.comm and crew.comm.size)
except OSError as error:
    say("sees" in str(error))
"""
    assert sorted(run(code.replace("EXTRA", "0"), 2)) == ["0", "1", "2", "2"]
    assert run(code.replace("EXTRA", "0"), 1) == ["0", "None"]
    assert run(code.replace("EXTRA", "1"), 1) == ["True"]


@pytest.mark.parametrize("variables", [("PMI_RANK", "PMI_SIZE"), ("PMIX_RANK", "SLURM_STEP_NUM_TASKS")])
def test_under_a_launcher_without_mpi4py_the_first_rank_names_the_extra(variables, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv(variables[1], "2")
    for rank, said in [("0", "[mpi]"), ("1", "")]:
        monkeypatch.setenv(variables[0], rank)
        assert cli.main(["train"]) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert (out, err.count("\n")) == ("", int(rank == "0"))
