"""Model files: contents, refused files, and the file after a kill, a failed system call or a full disk."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from compare import TOLERANCE, assert_same_bits

import fastmlp
from fastmlp import atomic, storage

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, limits and permissions")

SAVE = """
import os, sys
import numpy as np
from fastmlp import storage
path = sys.argv[1] if len(sys.argv) > 1 else os.environ["FILE"]
SIZES = tuple(int(n) for n in os.environ.get("SIZES", "6-5-3").split("-"))
count = sum(n_out * (n_in + 1) for n_in, n_out in zip(SIZES, SIZES[1:]))
def record(k):
    return storage.Record(SIZES, np.full(count, float(k)), seed=0, init="glorot")
def value():
    parameters = storage.load(path).parameters
    assert (parameters == parameters[0]).all()
    return int(parameters[0])
def others():
    return sorted(set(os.listdir(os.path.dirname(path))) - {os.path.basename(path)})
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def naive_parser(path):
    """Read the format as documented: a length, JSON, bytes."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    strings, types = header.pop("__metadata__"), {"F64": "<f8", "F32": "<f4"}
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[end + first : end + last], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors, strings


@pytest.mark.parametrize("sizes", [(7, 3), (7, 5, 3), (1, 1), (3, 1, 2, 4)])
@pytest.mark.parametrize("seed", [0, None, 2**32 - 1])
def test_a_model_comes_back_bit_for_bit(path, dtype, sizes, seed, rng):
    model = fastmlp.MLP(sizes, dtype=dtype.name, seed=seed)
    model.parameters = rng.standard_normal(model.parameters.shape)
    model.parameters[0] = np.nan
    model.save(path)
    loaded = fastmlp.MLP.load(str(path))
    assert_same_bits(loaded.parameters, model.parameters)
    assert (loaded.layer_sizes, loaded.dtype) == (sizes, dtype)
    assert storage.load(path).seed == seed
    loaded.parameters = np.zeros(model.parameters.shape)
    assert not any(w.any() for w in loaded.weights)


@pytest.mark.parametrize("read", [naive_parser, lambda path: (safetensors.numpy.load_file(path), None)])
def test_other_readers_find_torch_s_names_and_shapes(path, dtype, read):
    model = fastmlp.MLP((7, 5, 3), dtype=dtype.name, seed=3)
    model.biases[0][:] = np.arange(5)[:, None]
    model.save(path)
    tensors, strings = read(path)
    assert set(tensors) == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
    for i, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        assert_same_bits(tensors[f"layers.{i}.weight"], weight)
        assert_same_bits(tensors[f"layers.{i}.bias"], bias.ravel())
    if strings is not None:
        known = {"format": "fastmlp", "format_version": "1", "architecture": "7-5-3", "dtype": dtype.name, "seed": "3"}
        assert strings == {**known, "init": "glorot", "activation": "relu", "checksum": strings["checksum"]}


def test_torch_takes_the_tensors_as_they_are_and_predicts_the_same(path, rng, backend, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    x, labels = rng.random((20, 200)), rng.integers(4, size=200)
    model = fastmlp.MLP((20, 30, 4), dtype=dtype.name)
    model.fit(x, labels, epochs=50, checkpoint=path)
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))
    net = net.to(getattr(torch, dtype.name))
    for written in (path, path.with_name("model")):
        model.save(path.with_name("model"))
        tensors = load_file(written)
        for i, layer in enumerate((net[0], net[2])):
            layer.load_state_dict({part: tensors[f"layers.{i}.{part}"] for part in ("weight", "bias")})
        with torch.no_grad():
            theirs = torch.softmax(net(torch.from_numpy(x.T.astype(dtype))), dim=1).numpy().T
        difference = np.abs(theirs - model.predict_proba(x)).max()
        print(f"{backend} {dtype}: largest difference of a probability {difference:.1e}")  # noqa: T201
        assert difference <= TOLERANCE["other framework", dtype]


def test_every_flipped_bit_is_seen(path):
    fastmlp.MLP((2, 2), dtype="float32").save(path)
    whole = path.read_bytes()
    for at in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"^path: got .*expected .*;"):
            fastmlp.MLP.load(path)


def test_every_truncation_and_any_tail_is_seen(path):
    fastmlp.MLP((2, 2), dtype="float32").save(path)
    whole = path.read_bytes()
    for damaged in [*(whole[:length] for length in range(len(whole))), whole + b"\0", whole * 2]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="^path: got "):
            fastmlp.MLP.load(path)


def forged(change_tensors=None, change_strings=None):
    """Return a file with changed content and a matching checksum."""
    sizes = (3, 4, 2)
    vector = np.arange(26.0)
    tensors = dict(storage._named(vector, sizes))
    strings = {"format": "fastmlp", "format_version": "1", "architecture": "3-4-2", "dtype": "float64", "seed": "0"}
    tensors.update(change_tensors or {})
    strings.update(change_strings or {})
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    strings = {name: text for name, text in strings.items() if text is not None}
    strings.setdefault("checksum", storage._checksum(tensors, strings))
    return safetensors.numpy.save(tensors, strings)


def padded(content, spaces):
    """Return a file with a longer header of the same meaning."""
    length = int.from_bytes(content[:8], "little")
    return (length + spaces).to_bytes(8, "little") + content[8 : 8 + length] + b" " * spaces + content[8 + length :]


def twice(content):
    """Return a file that describes a tensor twice: readers may differ in which description they use."""
    length = int.from_bytes(content[:8], "little")
    entry = json.dumps(json.loads(content[8 : 8 + length])["layers.1.bias"]).encode()
    return raw(b'{"layers.1.bias":' + entry + b"," + content[9 : 8 + length], content[8 + length :])


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype, shape, offsets):
    return {"layers.0.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE = {
    "empty": b"",
    "text": b"model.safetensors: Git LFS pointer, not the file",
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "zip": b"PK\x03\x04" + bytes(60),
    "header longer than the file": raw({}, length=2**63),
    "header of 50 MB claimed": raw({}, b"x", length=50_000_000),
    "header longer than any of ours": padded(forged(), 4_000_000),
    "not JSON": raw(b"{" * 500),
    "nested": raw(b'{"a":' * 100_000),
    "not a map": raw([1, 2]),
    "not UTF-8": raw(b'{"\xff\xfe":1}'),
    "tensor of 2**62 rows": raw(entry("F64", [2**62, 4], [0, 0])),
    "tensor of 4 TB": raw(entry("F64", [2**39], [0, 2**42])),
    "negative shape": raw(entry("F64", [-1], [0, 8]), bytes(8)),
    "NaN in a shape": raw(b'{"layers.0.weight":{"dtype":"F64","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
    "unknown dtype": raw(entry("Q9", [1], [0, 8]), bytes(8)),
    "offsets backwards": raw(entry("F64", [1], [8, 0]), bytes(8)),
    "overlap": raw({**entry("F64", [1], [0, 8]), "b": entry("F64", [1], [0, 8])["layers.0.weight"]}, bytes(8)),
    "a gap": raw({**entry("F64", [1], [0, 8]), "b": entry("F64", [1], [16, 24])["layers.0.weight"]}, bytes(24)),
    "a name twice": twice(forged()),
    "three dimensions": raw(entry("F64", [1, 1, 1], [0, 8]), bytes(8)),
    "no offsets": raw({"layers.0.weight": {"dtype": "F64", "shape": [1]}}, bytes(8)),
    "more said of a tensor": raw({"a": {**entry("F64", [1], [0, 8])["layers.0.weight"], "order": "F"}}, bytes(8)),
    "metadata that are a list": raw({"__metadata__": ["format", "fastmlp"]}),
    "metadata that are numbers": raw({"__metadata__": {"format": 1}}),
    "no metadata": raw({}),
    "bfloat16": raw({"__metadata__": {"format": "fastmlp"}, **entry("BF16", [4], [0, 8])}, bytes(8)),
    "another program": forged(change_strings={"format": "pt"}),
    "no format": forged(change_strings={"format": None}),
    "a later version": forged(change_strings={"format_version": "4"}),
    "no checksum": forged(change_strings={"checksum": ""}),
    "no architecture": forged(change_strings={"architecture": None}),
    "another architecture": forged(change_strings={"architecture": "3-2-4"}),
    "a deeper architecture": forged(change_strings={"architecture": "3-4-2-1"}),
    "a million layers": forged(change_strings={"architecture": "1" + "-1" * 1_000_000}),
    "a huge width": forged(change_strings={"architecture": "3-4-" + "9" * 5000}),
    "width 0": forged(change_strings={"architecture": "3-0-2"}),
    "Arabic digits": forged(change_strings={"architecture": "٣-٤-٢"}),
    "another dtype": forged(change_strings={"dtype": "float32"}),
    "no seed": forged(change_strings={"seed": None}),
    "a huge seed": forged(change_strings={"seed": "9999999999"}),
    "a seed of words": forged(change_strings={"seed": "zero"}),
    "an unknown initialisation": forged(change_strings={"init": "orthogonal"}),
    "an unknown activation": forged(change_strings={"activation": "swish"}),
    "an unknown loss": forged(change_strings={"format_version": "3", "loss": "hinge"}),
    "an activation too many": forged(change_strings={"activation": "tanh,tanh"}),
    "a layer missing": forged({"layers.1.bias": None}),
    "one tensor more": forged({"extra": np.zeros(3)}),
    "a transposed weight": forged({"layers.0.weight": np.zeros((3, 4))}),
    "a bias as a column": forged({"layers.0.bias": np.zeros((4, 1))}),
    "integers": forged({"layers.0.bias": np.zeros(4, np.int64)}),
    "one float32": forged({"layers.0.bias": np.zeros(4, np.float32)}),
    "training in integers": forged({"training.loss": np.zeros(4, np.int64)}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_with_the_reason(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: got .*model\.safetensors, expected an intact fastmlp .*;") as caught:
        fastmlp.MLP.load(path)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_what_the_library_writes_is_read(path):
    """Also older files, which record neither the initialisation nor the activation."""
    for content in (forged(), padded(forged(), 1000)):
        path.write_bytes(content)
        model = fastmlp.MLP.load(path)
        assert_same_bits(model.parameters, np.arange(26.0))
        assert (model.init, model.activation) == ("notebook", "relu")
    path.write_bytes(forged({"training.loss": np.arange(3.0), "training.none": np.zeros(0)}, {"init": "he"}))
    record = storage.load(path)
    assert record.init == "he"
    assert_same_bits(record.arrays["loss"], np.arange(3.0))


def test_the_library_reads_a_checkpoint_and_writes_one_that_is_read(path, dtype):
    """For a file of both dtypes: the library puts float64 first."""
    parameters = np.arange(26).astype(dtype)
    arrays = {"loss": np.arange(3.0), "none": np.zeros(0), "parameters": parameters + 1}
    record = storage.Record((3, 4, 2), parameters, 7, "he", {"epoch": "3"}, arrays, {"name": "\u00e9\u0001\n"})
    storage.save(path, record)
    tensors, strings = naive_parser(path)
    theirs = safetensors.numpy.load_file(path)
    assert set(theirs) == set(tensors)
    for name, tensor in tensors.items():
        assert_same_bits(theirs[name], tensor)
    safetensors.numpy.save_file(tensors, path, strings)
    again = storage.load(path)
    assert_same_bits(again.parameters, parameters)
    assert (again.facts, again.notes, again.init, again.seed) == (record.facts, record.notes, "he", 7)
    for name, array in arrays.items():
        assert_same_bits(again.arrays[name], array)


def test_tensors_begin_at_multiples_of_their_items(path, dtype):
    arrays = {"loss": np.arange(3.0)}
    storage.save(path, storage.Record((2, 1), np.arange(3).astype(dtype), 0, "he", {}, arrays))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for name, one in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert one["data_offsets"][0] % {"F32": 4, "F64": 8}[one["dtype"]] == 0


def test_the_deepest_model_with_the_longest_notes_comes_back(path):
    model = fastmlp.MLP((1,) * 10_001)
    model.notes = {"\x01" * 83_000: "\x01" * 83_000}
    model.save(path)
    loaded = fastmlp.MLP.load(path)
    assert_same_bits(loaded.parameters, model.parameters)
    assert (loaded.layer_sizes, loaded.notes) == (model.layer_sizes, model.notes)
    widest = SimpleNamespace(dtype=np.dtype(np.float64), shape=(2**31 - 1,) * 2, nbytes=2**63 // 20_000)
    deepest = {f"layers.{i}.{kind}": widest for i in range(10_000) for kind in ("weight", "bias")}
    assert len(storage._header(deepest, {"note." + name: text for name, text in model.notes.items()})) < 3_600_000


def test_a_file_that_could_not_be_read_again_is_not_written(path):
    fastmlp.MLP((2, 2)).save(path)
    before = path.read_bytes()
    record = storage.Record((2, 2), np.zeros(6), 0, "he", {"fact": "x" * 4_000_000})
    with pytest.raises(ValueError, match="^model: got 4000... bytes of names and notes, expected at most 4000000;"):
        storage.save(path, record)
    assert path.read_bytes() == before


@posix
def test_hostile_files_are_refused_within_limits(run_python, tmp_path):
    for i, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{i}").write_bytes(content)
    code = """
import os, resource
from fastmlp import storage
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 2**32
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
for name in os.listdir():
    try:
        storage.load(name)
    except ValueError:
        continue
    raise AssertionError(name)
"""
    run_python(code, cwd=tmp_path, env={"OPENBLAS_NUM_THREADS": "1"})


@posix
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in (tmp_path, tmp_path / "fifo", "/dev/null", "/dev/zero"):
        with pytest.raises(ValueError, match="^path: got a folder or a device"):
            fastmlp.MLP.load(name)
        with pytest.raises(ValueError, match="^path: got a folder or a device"):
            fastmlp.MLP((2, 2)).save(name)
    assert os.listdir(tmp_path) == ["fifo"]
    with pytest.raises(FileNotFoundError):
        fastmlp.MLP.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="path: got No such file"):
        fastmlp.MLP((2, 2)).save(tmp_path / "none" / "model")


@posix
def test_permissions_links_and_leftovers(path, tmp_path):
    model = fastmlp.MLP((2, 2))
    before = os.umask(0o027)
    try:
        model.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(path.name)
    dangling.symlink_to("made")
    fastmlp.MLP((3, 2)).save(link)
    model.save(dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert fastmlp.MLP.load(path).layer_sizes == (3, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    leftover, other = tmp_path / f".{path.name}.0123abcd.tmp", tmp_path / f".{path.name}x.0123abcd.tmp"
    leftover.touch()
    other.touch()
    model.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        p.name for p in (path, link, dangling, other, tmp_path / "made")
    )


@posix
def test_leftovers_are_those_of_this_name(tmp_path):
    """Also if the name has a meaning in glob patterns."""
    path, leftover, other = (tmp_path / name for name in ("a[0]", ".a[0].0123abcd.tmp", ".a0.0123abcd.tmp"))
    leftover.touch()
    other.touch()
    fastmlp.MLP((2, 2)).save(path)
    assert not leftover.exists()
    assert other.exists()


@posix
def test_without_locks_files_are_written_and_leftovers_stay(path, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", no_locks)
    leftover = tmp_path / f".{path.name}.0123abcd.tmp"
    leftover.touch()
    fastmlp.MLP((2, 2)).save(path)
    assert fastmlp.MLP.load(path).layer_sizes == (2, 2)
    assert leftover.exists()


@posix
@pytest.mark.parametrize("moment", ["before the lock", "during the lock"])
def test_a_temporary_file_that_is_taken_for_a_leftover_is_replaced(path, monkeypatch, moment):
    """Another process may find it between its creation and its lock."""
    lock, taken = atomic.fcntl.flock, []

    def late(file, operation):
        if not taken:
            taken.append(file.name)
            if moment == "before the lock":
                atomic._remove_leftovers(path)
                assert not os.path.exists(file.name)
            else:
                with open(file.name, "rb") as same:
                    lock(same, operation)
                    try:
                        return lock(file, operation)
                    finally:
                        os.unlink(file.name)
        return lock(file, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    fastmlp.MLP((2, 2)).save(path)
    assert len(taken) == 1
    assert fastmlp.MLP.load(path).layer_sizes == (2, 2)


@posix
def test_processes_that_save_to_one_path_at_once(run_python, path):
    """Each save succeeds, each read finds a complete file, and no temporary file is left."""
    code = f"""{SAVE}
import time
storage.save(path, record(0))
children = []
for child in range(4):
    process = os.fork()
    if process == 0:
        failed = 0
        for k in range(150):
            try:
                storage.save(path, record(k))
            except OSError as error:
                failed += 1
        os._exit(min(failed, 100))
    children.append(process)
reads = 0
while len(children) > 0:
    value()
    reads += 1
    done, status = os.waitpid(-1, os.WNOHANG)
    if done:
        assert status == 0, os.waitstatus_to_exitcode(status)
        children.remove(done)
assert reads > 10
storage.save(path, record(0))
assert others() == [], others()
"""
    run_python(code, env={"FILE": str(path), "OPENBLAS_NUM_THREADS": "1"})


@posix
def test_a_folder_that_takes_no_file_is_said_at_once(path, monkeypatch):
    """Also for root, who may write anywhere."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="path: got no permission on writing .*; make the folder"):
        storage.check_place(path)


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(path, monkeypatch, number):
    """Some file systems cannot do it; errors on other file systems are reported."""
    sync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    if number == errno.EINVAL:
        fastmlp.MLP((2, 2)).save(path)
    else:
        with pytest.raises(OSError, match="the new file is in place, but may not outlast a power cut"):
            fastmlp.MLP((2, 2)).save(path)
    assert fastmlp.MLP.load(path).layer_sizes == (2, 2)


LADDER = """
import os, resource, sys
import numpy as np
import fastmlp
path, action = os.environ["FILE"], os.environ["ACTION"]
_, hard = resource.getrlimit(resource.RLIMIT_AS)
model = fastmlp.MLP((2000, 1000))
before = model.parameters.copy()
model.save(path)
fastmlp.MLP.load(path)
ends = set()
for megabytes in (0, 0.1, 0.3, 0.6, 1, 2, 4, 8, 14, 17, 20, 30, 33, 40, 50, 64, 80):
    model.parameters[0] = megabytes
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    loaded = None
    resource.setrlimit(resource.RLIMIT_AS, (int(used + megabytes * 1e6), hard))
    try:
        if action == "save":
            model.save(path)
        else:
            loaded = fastmlp.MLP.load(path)
        end = "done"
    except MemoryError:
        end = "refused"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    ends.add(end)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)], (megabytes, os.listdir())
    stored = fastmlp.MLP.load(path).parameters
    if action == "save":
        assert stored[0] == (megabytes if end == "done" else last), (megabytes, stored[0])
    elif end == "done":
        assert (loaded.parameters == stored).all()
    last = stored[0]
    loaded = stored = None
    assert model.parameters[0] == megabytes and (model.parameters[1:] == before[1:]).all()
print(action, sorted(ends))
assert "done" in ends and (action == "save" or "refused" in ends), ends
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("action", ["save", "load"])
def test_short_memory_is_a_memory_error(run_python, path, action):
    """With too little memory, the process survives with its model and the old file."""
    env = {"FILE": str(path), "ACTION": action, "OPENBLAS_NUM_THREADS": "1", "RUST_BACKTRACE": "1"}
    run_python(LADDER, env=env, timeout=60)


@posix
def test_a_file_that_another_process_is_writing_is_left_alone(path, tmp_path):
    busy = tmp_path / f".{path.name}.0123abcd.tmp"
    with busy.open("xb") as file:
        atomic._lock(file)
        fastmlp.MLP((2, 2)).save(path)
        assert busy.exists()
    fastmlp.MLP((2, 2)).save(path)
    assert not busy.exists()


@posix
@pytest.mark.parametrize("sizes", ["6-5-3", "784-128-10"])
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new(run_python, path, sizes, request):
    kills = 500 if request.config.getoption("--full") else 25
    code = f"""{SAVE}
import mmap, random, signal, struct, time
shared, rng = mmap.mmap(-1, 16), random.Random(0)
storage.save(path, record(0))
start = time.perf_counter()
storage.save(path, record(0))
one = time.perf_counter() - start
old = new = complete = leftovers = state = 0
for kill in range({kills}):
    shared[:] = struct.pack("qq", state, state)
    child = os.fork()
    if child == 0:
        while True:
            state += 1
            shared[:8] = struct.pack("q", state)
            storage.save(path, record(state))
            shared[8:] = struct.pack("q", state)
    time.sleep(rng.uniform(0, 5 * one))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    began, ended = struct.unpack("qq", shared[:])
    state = value()
    assert state in (began, ended)
    assert len(others()) <= 1
    between = began != ended
    old, new = old + (between and state == ended), new + (between and state == began)
    complete, leftovers = complete + (not between), leftovers + len(others())
storage.save(path, record(0))
assert others() == []
print({kills}, "kills: within a save", old, "left the old file and", new, "the new one;", complete, "between saves;",
      leftovers, "left a temporary file, which the next save removed; saves in all:", began)
"""
    print(run_python(code, env={"FILE": str(path), "SIZES": sizes, "OPENBLAS_NUM_THREADS": "1"}, timeout=600).stdout)  # noqa: T201


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}


def test_a_fault_in_any_call_leaves_the_old_file_and_no_other(run_python, faults, path):
    code = f"""{SAVE}
import errno
storage.save(path, record(0))
for number in (errno.EIO, errno.ENOSPC, errno.EACCES):
    at, left_new = 0, []
    while True:
        at += 1
        storage.save(path, record(0))
        os.environ.update(FAULT_ERRNO=str(number), FAULT_AT=str(at))
        try:
            storage.save(path, record(1))
        except OSError as error:
            del os.environ["FAULT_AT"]
            assert error.errno == number, error
            assert os.strerror(number) in str(error) and path in str(error), error
            assert ("unchanged" in str(error)) == (value() == 0), error
            left_new.append(value())
        else:
            del os.environ["FAULT_AT"]
            break
        assert others() == [], (at, others())
    # Only the close of the file and open, fsync and close of the folder follow after the new file is in place.
    assert left_new == sorted(left_new) and left_new.count(1) == 4 and left_new.count(0) >= 4, left_new
    print(errno.errorcode[number], "in", len(left_new), "calls")
"""
    print(run_python(code, env={**faults, "FILE": str(path)}).stdout)  # noqa: T201


def test_a_kill_at_any_call_leaves_the_old_file_or_the_new(run_python, faults, path):
    code = f"""{SAVE}
at, values, status = 0, [], -9
while status == -9:
    at += 1
    storage.save(path, record(0))
    child = os.fork()
    if child == 0:
        os.environ.update(FAULT_ERRNO="0", FAULT_AT=str(at))
        storage.save(path, record(1))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    values.append(value())
assert status == 0 and values == sorted(values) and values[0] == 0 and values.count(1) >= 3, (status, values)
"""
    run_python(code, env={**faults, "FILE": str(path)})


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(run_python, faults, path):
    code = f"""{SAVE}
storage.save(path, record(0))
os.environ.update(FAULT_ERRNO="0", FAULT_AT="-1")
storage.save(path, record(1))
del os.environ["FAULT_AT"]
"""
    calls = run_python(code, env={**faults, "FILE": str(path)}).stderr.split()
    calls = calls[calls.index("create") :]
    assert [call for call in calls if call != "close"] == [
        "create",
        "write",
        "chmod",
        "fsync",
        "rename",
        "open",
        "fsync",
    ]


@contextmanager
def full_disk(folder):
    """Mount a file system of 64 kB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tmpfs, as root on Linux")
def test_a_full_disk(tmp_path):
    with full_disk(tmp_path):
        path, model = tmp_path / "model", fastmlp.MLP((20, 10))
        model.save(path)
        before = path.read_bytes()
        with pytest.raises(OSError, match=r"path: got No space left on device .*unchanged: free space") as caught:
            fastmlp.MLP((2000, 10)).save(path)
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["model"]


@posix
def test_a_limit_on_file_size(run_python, path):
    code = f"""{SAVE}
import resource
storage.save(path, record(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    storage.save(path, record(1))
except OSError as error:
    assert "path: got File too large" in str(error), error
else:
    raise AssertionError
assert value() == 0 and others() == []
"""
    run_python(code, env={"FILE": str(path)})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(0o555)
    with pytest.raises(PermissionError, match="path: got Permission denied"):
        fastmlp.MLP((2, 2)).save(folder / "model")
