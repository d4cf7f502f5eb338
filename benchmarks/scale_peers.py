"""The job of `benchmarks.scale` in PyTorch: DistributedDataParallel over gloo, full batch, one thread a process.

`report` starts ``python -m benchmarks.scale_peers RANK SIZE FOLDER WORDS`` for each process, and prints a table.
"""

import hashlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import problems
from benchmarks.scale import SIZES, launched

ALPHA, WARM_UP = 0.1, 2


def job(rank, size, folder, m, steps):
    """Train as one of ``size`` processes; return a digest of the model and the seconds of each step."""
    import torch
    from torch import distributed, nn

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    codes, labels, _ = problems.image_codes(m)
    share = slice(m * rank // size, m * (rank + 1) // size)
    x, y = torch.from_numpy(codes[:, share].T / 255.0), torch.from_numpy(labels[share])
    net = nn.Sequential(nn.Linear(*SIZES[:2]), nn.ReLU(), nn.Linear(*SIZES[1:])).double()
    with torch.no_grad():
        for layer, initial in zip(net.parameters(), problems.parameters(SIZES, np.float64), strict=True):
            layer.copy_(torch.from_numpy(initial).reshape(layer.shape))
    whole = nn.parallel.DistributedDataParallel(net)
    optimizer, ends = torch.optim.SGD(net.parameters(), lr=ALPHA), []
    for _ in range(steps + WARM_UP):
        optimizer.zero_grad()
        # Gradients are averaged over the processes, whose shares may be unequal.
        (nn.functional.cross_entropy(whole(x), y, reduction="sum") * (size / m)).backward()
        optimizer.step()
        ends.append(time.perf_counter())
    digest = hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in net.parameters())).hexdigest()
    distributed.destroy_process_group()
    return digest, np.diff(ends)[WARM_UP - 1 :].tolist()


def started(size, **words):
    """Return what the first of ``size`` processes returns."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale_peers"]
        processes = [
            subprocess.Popen([*command, str(rank), str(size), folder, json.dumps(words)], stdout=subprocess.PIPE)
            for rank in range(size)
        ]
        printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a process of torch.distributed failed: its error is above")
    return json.loads(printed[0].splitlines()[-1])


def of_gloo(m, steps, rounds):
    """Return the seconds of a step on 1 and 2 processes, and the digests on 1, 2 and 3."""
    found = {size: [started(size, m=m, steps=steps) for _ in range(rounds if size < 3 else 1)] for size in (1, 2, 3)}
    taken = [statistics.median(np.concatenate([times for _, times in found[size]])) for size in (1, 2)]
    return (*taken, [{digest[:12] for digest, _ in some} for some in found.values()])


def of_ours(m, steps, rounds):
    """Do as `of_gloo`."""
    found = launched("together", 2, m=m, steps=steps, rounds=rounds)
    two = [step[0] for one in found["together"] for step in one[0]]
    digests = [launched("bits", size, m=m, steps=steps)["even"] for size in (1, 2, 3)]
    return (
        statistics.median(np.ravel(found["alone"])),
        statistics.median(two),
        [{d[:12] for d in some} for some in digests],
    )


def report(m, steps, rounds):
    """Measure and print both; say why there is no peer."""
    print(f"\nA step on {m} samples, 784-128-10, float64, full batch, 1 thread a process")
    print("| | 1 process, ms | 2 processes, ms | ratio | digests on 1, 2 and 3 processes |")
    print("| --- | --- | --- | --- | --- |")
    rows = {"fastmlp, MPI": of_ours, "PyTorch, DistributedDataParallel, gloo": of_gloo}
    if importlib.util.find_spec("torch") is None:
        del rows["PyTorch, DistributedDataParallel, gloo"]
    for name, measure in rows.items():
        one, two, digests = measure(m, steps, rounds)
        bits = "equal: " if len(set().union(*digests)) == 1 else "different: "
        bits += ", ".join("/".join(sorted(some)) for some in digests)
        print(f"| {name} | {one * 1e3:.1f} | {two * 1e3:.1f} | {one / two:.2f} | {bits} |", flush=True)
    if len(rows) == 1:
        print("PyTorch: skipped, torch is not installed")


if __name__ == "__main__":
    print(json.dumps(job(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], **json.loads(sys.argv[4]))))
