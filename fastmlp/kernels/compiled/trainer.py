"""Trainers: a model and the state of its optimizer, packed for updates on batches, and the launches of these."""

from itertools import pairwise
from typing import Any

import numpy as np

from fastmlp.kernels import rules, vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.activations import ACTIVATIONS, any_slopes
from fastmlp.kernels.compiled.batch import BATCH_LAYER, BatchMemory, BatchRooms, FeatureLists, Meetings, Model, Run
from fastmlp.kernels.compiled.drawn import DrawnBatches, DrawnLists, chunk_samples
from fastmlp.kernels.compiled.launch import usable_threads
from fastmlp.kernels.compiled.losses import loss_scratch
from fastmlp.kernels.compiled.memory import aligned, aligned_parts, identity_index, round_up
from fastmlp.kernels.compiled.pace import Pace
from fastmlp.kernels.compiled.problem import targets
from fastmlp.kernels.compiled.sample_lists import BITS, SampleLists, is_short
from fastmlp.kernels.compiled.team import assemble
from fastmlp.kernels.compiled.updates import run_updates
from fastmlp.kernels.compiled.waiting import Window, are_idle, is_within, limit, unchanging_share
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Drawn, Part
from fastmlp.kernels.scores import hit_scales


def _layer_table(net: Net, lanes: int, part: int) -> Any:
    """Return the layers, for an input that has lists of ``part`` features, or dense rows if that is 0."""
    layers, activations = np.zeros(len(net.sizes) - 1, BATCH_LAYER), (*net.activations, "identity")
    at = at_turned = before = first_piece = 0
    for number, (n_in, n_out) in enumerate(pairwise(net.sizes)):
        columns, rows = round_up(n_out, lanes), round_up(n_in, lanes)
        height = part if number == 0 and part else _piece_rows(n_in, columns, lanes)
        layer = layers[number]
        layer["n_in"], layer["n_out"], layer["columns"], layer["rows"] = n_in, n_out, columns, rows
        layer["at"], layer["at_bias"] = at, at + rows * columns
        layer["at_turned"], layer["before"] = at_turned, before
        layer["height"], layer["first_piece"], layer["pieces"] = height, first_piece, -(-n_in // height)
        layer["activation"] = ACTIVATIONS[activations[number]].code
        at += (rows + 1) * columns
        at_turned += rows * columns if number > 0 else 0
        before += columns
        first_piece += int(layer["pieces"])
    return layers


def _piece_rows(n_in: int, columns: int, lanes: int) -> int:
    """Return the rows of a piece of the parameters: whole vectors, of about PIECE_PARAMETERS in all."""
    return min(round_up(max(1, tuning.PIECE_PARAMETERS // columns), lanes), round_up(n_in, lanes))


def _groups(x: SampleLists, ranges: int, together: int) -> Any:
    """Return the group of each block of features: up to so many blocks together, on one page and in one range."""
    group, number = np.zeros(x.parts, np.int64), 0
    for begin, end in pairwise([x.parts * one // ranges for one in range(ranges + 1)]):
        block = begin
        while block < end:
            stop = min(block + together, (block // x.paged + 1) * x.paged, end)
            group[block:stop] = number
            block, number = stop, number + 1
    return group


class Trainer:
    """The parameters and the state of an optimizer, packed, with the samples that they are trained on."""

    def __init__(self, vectors: list[Any], net: Net, x: SampleLists, part: Part, drawn: Drawn | None) -> None:
        self._net, self._dtype, self._scales = net, vectors[0].dtype, part.scales
        self._take(x, part.y, part.weight)
        self._lanes = vector.VECTOR_BYTES // self._dtype.itemsize
        self._layers = _layer_table(net, self._lanes, self._x.part if self._x.listed else 0)
        last = self._layers[-1]
        self._size = int(last["at_bias"] + last["columns"])
        self._products = int((self._layers["n_in"] * self._layers["n_out"]).sum())
        of_block = x.part * int(self._layers[0]["columns"]) * self._dtype.itemsize * _met_share(x)
        self._ranges = min(tuning.BATCH_RANGES, int(self._layers[0]["pieces"]))
        self._group = _groups(x, self._ranges, max(1, int(tuning.BATCH_WEIGHT_BYTES / of_block)))
        self._drawn = DrawnBatches(x, drawn)
        self._packed = [self._pack(one) for one in vectors]
        turned = int(last["at_turned"] + last["rows"] * last["columns"]) if len(self._layers) > 1 else 0
        self._turned = aligned(turned, self._dtype)
        self._turn()
        self._saved = [one.copy() for one in self._packed]
        self._pace = Pace()
        self._made_memory: tuple[int, bool, BatchMemory] | None = None
        self._made_rooms: tuple[tuple[int, int, int, bool], BatchRooms] | None = None
        self._window = Window(net.sizes[0], self._dtype)
        self._may_wait = x.listed > 0 and all(is_within(one, limit(self._dtype)) for one in vectors)
        self._most = 1  # samples of a batch
        self._made_meetings = np.empty((2, 0), np.int32)
        self._made: list[tuple[Any, Any, rules.Rule, Any]] = []

    def _take(self, x: SampleLists, y: Any, weight: Any) -> None:
        self._x, self._weight = x, weight
        self._is_even = bool((weight == 1).all())
        self._targets = targets(y, weight, self._dtype, self._net, self._scales)

    def enter(self, x: SampleLists, y: Any, weight: Any) -> None:
        """Go on with other samples, which are listed in the same blocks."""
        self._settle()
        self._saved, self._made = [one.copy() for one in self._packed], []
        self._take(x, y, weight)
        self._drawn = DrawnBatches(x, None)

    def _views(self, packed: Any, flat: Any) -> Any:
        """Yield the weights and biases of each layer, in a packed and in a flat vector, as views of the same shape."""
        at = 0
        for layer in self._layers:
            n_in, n_out, columns = int(layer["n_in"]), int(layer["n_out"]), int(layer["columns"])
            start, bias = int(layer["at"]), int(layer["at_bias"])
            rows = packed[start:bias].reshape(-1, columns)
            yield rows[:n_in, :n_out], flat[at : at + n_out * n_in].reshape(n_out, n_in).T
            at += n_out * n_in
            yield packed[bias : bias + n_out], flat[at : at + n_out]
            at += n_out

    def _pack(self, flat: Any) -> Any:
        packed = aligned(self._size, self._dtype)
        packed[:] = 0
        for to, source in self._views(packed, flat):
            to[...] = source
        return packed

    def _turn(self) -> None:
        for layer in self._layers[1:]:
            rows, columns, at = int(layer["rows"]), int(layer["columns"]), int(layer["at_turned"])
            weights = self._packed[0][int(layer["at"]) : int(layer["at_bias"])].reshape(rows, columns)
            self._turned[at : at + rows * columns].reshape(columns, rows)[...] = weights.T

    def vectors(self) -> list[Any]:
        """Return the parameters and the state of the optimizer as flat vectors."""
        self._settle()
        count = sum(n_out * (n_in + 1) for n_in, n_out in pairwise(self._net.sizes))
        result = []
        for packed in self._packed:
            flat = np.empty(count, self._dtype)
            for source, to in self._views(packed, flat):
                to[...] = source
            result.append(flat)
        return result

    def run(self, order: Any, ends: Any, rule: rules.Rule, numbers: Any) -> Any:
        """Make updates; return the sums of loss, hits and weight of each that was made."""
        if len(self._made) == tuning.REPEATED_RUNS:
            self._settle()
            self._saved, self._made = [one.copy() for one in self._packed], []
        waits = self._begin_waiting(int(np.diff(ends, prepend=0).max()), rule, numbers)
        sums, complete = self._launch(order, ends, rule, numbers, waits=waits)
        if complete:
            self._made.append((order, ends, rule, numbers))
            return sums
        self._restore()
        if waits:  # a parameter may be infinite, but which update is to blame only a full pass can tell
            self._may_wait = False
            return self.run(order, ends, rule, numbers)
        if len(sums) > 0:
            made = order[: ends[len(sums) - 1]], ends[: len(sums)], rule, numbers[: len(sums)]
            self._launch(*made)
            self._made.append(made)
        return sums

    def _begin_waiting(self, most: int, rule: rules.Rule, numbers: Any) -> bool:
        """Return whether rows may wait during a run of batches of up to so many samples; if not, none does any more."""
        entries = len(self._x.index) / max(len(self._x.start) - 1, 1) * self._x.parts * most
        share = tuning.WAITING_SHARE if are_idle(rule, numbers) else tuning.BUSY_WAITING_SHARE
        wanted = rule.clip == 0 and not rule.squares and entries < share * self._x.features
        if not (wanted and self._window.takes(rule, numbers)):
            self._settle()
        return wanted and self._may_wait and self._window.takes(rule, numbers)

    def _settle(self) -> None:
        """Make all updates that rows wait for."""
        if self._window.rule is None or self._window.idle:
            self._window.clear()
            return
        nothing = np.empty(0, np.int32), np.empty(0, np.int64), self._window.rule, self._window.numbers[:0]
        _, complete = self._launch(*nothing, waits=True)
        if not complete:
            self._restore()
            self._may_wait = False

    def _restore(self) -> None:
        """Return from an update that failed to the last saved state, and repeat the runs since then."""
        for packed, saved in zip(self._packed, self._saved, strict=True):
            packed[:] = saved
        self._turn()
        self._window.clear()
        for run in self._made:
            self._launch(*run)

    def _launch(
        self, order: Any, ends: Any, rule: rules.Rule, numbers: Any, *, waits: bool = False
    ) -> tuple[Any, bool]:
        """Make updates; return the sums of those that were made, and whether these are all."""
        dtype, updates, window = self._dtype, len(ends), self._window
        starts = np.append(0, ends)[:updates]
        if self._is_even:
            weights = (ends - starts).astype(np.float64)
        else:
            weights = np.add.reduceat(self._weight[order], starts, dtype=np.float64) if updates else np.empty(0)
        share = np.divide(1, weights, out=np.zeros_like(weights), where=weights > 0).astype(dtype)
        most = self._most = int((ends - starts).max()) if updates else self._most
        threads = self._threads(most, updates)
        piece = _piece_samples(most, self._lanes, threads)
        constants = [rule.first, rule.second, 1 - rule.first, 1 - rule.second, rule.eps]
        drawn, numbered = self._drawn.lists(order, ends)
        chunk = self._chunk(most, drawn)
        shares, table = window.extended(share, np.ascontiguousarray(numbers, dtype))
        constants += [unchanging_share(rule, table), limit(dtype)] if waits else [np.nan, float(np.finfo(dtype).max)]
        run = Run(
            np.ascontiguousarray(order, np.int32), np.ascontiguousarray(ends, np.int64), len(window.share), shares,
            table, self._targets, np.array(constants, dtype), rule.kind, rule.nesterov, int(rule.first != 0),
            float(rule.clip), rule.squares, updates, piece, chunk,
            np.zeros((updates, tuning.LINE_NUMBERS)), np.zeros(max(updates, 1), np.int64), np.zeros(1, np.int64),
            assemble(threads), self._meetings(order, updates, waits=waits), drawn, numbered,
        )  # fmt: skip
        parameters, *state = self._packed
        m, v = [*state, np.empty(0, dtype), np.empty(0, dtype)][:2]
        model = Model(self._layers, m, v, self._turned, self._group, self._ranges)
        memory, rooms = self._memory(round_up(most, piece), rule.clip > 0), self._rooms(threads, most, chunk)
        arguments = threads, parameters, model, memory, self._x, run, rooms
        if updates > 0:
            self._pace.timed(threads, updates, lambda: run_updates.launch(*arguments))
        else:
            run_updates.launch(*arguments)
        if updates == 0:
            window.clear()
        elif waits:
            window.extend(rule, share, numbers)
        done = int(run.done[0])
        sums = np.empty((done, 3 + rule.squares))
        sums[:, :2], sums[:, 2] = run.sums[:done, :2], weights[:done]
        sums[:, 3:] = run.sums[:done, 2 : 2 + rule.squares]
        return sums, done == updates and not run.faults.any()

    def _meetings(self, order: Any, updates: int, *, waits: bool) -> Meetings:
        """Return room for the meetings of a run."""
        idle = int(waits and self._window.idle)
        if not waits:
            none = np.empty(0, np.int32)
            return Meetings(0, 0, none, np.empty(0, np.int64), none, none)
        x, at = self._x, order.astype(np.int64) * self._x.parts
        entries = int((x.start[at + x.parts] - x.start[at]).sum())
        if len(self._made_meetings[0]) < entries:
            self._made_meetings = np.empty((2, entries), np.int32)
        start = np.zeros((updates + 1) * x.parts, np.int64)
        return Meetings(1, idle, self._window.current, start, *self._made_meetings)

    def _chunk(self, most: int, drawn: DrawnLists) -> int:
        """Return the samples whose entries are listed by feature at once, in batches of up to so many; 0 if none."""
        if drawn.size > 0:
            return drawn.chunk
        return chunk_samples(most) if is_short(self._x) else 0

    def _threads(self, most: int, updates: int) -> int:
        """Return how many threads are worth it for updates on batches of up to so many samples."""
        work = most * self._products + tuning.UPDATE_WORK * self._size
        return self._pace.threads(usable_threads(), updates) if work >= tuning.TEAM_WORK else 1

    def _memory(self, samples: int, clips: bool) -> BatchMemory:
        """Return memory for batches of up to so many samples: that of the run before, if it was of the same size."""
        layers = self._layers
        inputs = 0 if self._x.listed else samples * int(layers[0]["rows"])
        outputs, size = samples * int(layers["columns"].sum()), self._size if clips else 0
        partial = (self._ranges - 1) * samples * int(layers[0]["columns"])
        if self._made_memory is None or self._made_memory[:2] != (samples, clips):
            derivatives = outputs if any_slopes(self._net.activations) else 0
            parts = aligned_parts(self._dtype, inputs, outputs, outputs, partial, derivatives, 2 * samples, size)
            for part in parts:
                part[:] = 0  # also where rows are padded: what is there enters products with zeros
            inputs, values, deltas, partial, slopes, losses, gradient = parts
            squares, weights = np.zeros((2, int(layers["pieces"].sum()) + 1))
            memory = BatchMemory(
                inputs, values, deltas, partial, slopes, losses.reshape(2, samples), gradient, squares, weights,
                np.zeros(int(layers[0]["columns"]), self._dtype),
                identity_index(max(*self._net.sizes, samples)), samples,
            )  # fmt: skip
            self._made_memory = samples, clips, memory
        return self._made_memory[2]

    def _rooms(self, threads: int, most: int, chunk: int) -> BatchRooms:
        """Return rooms of each thread for batches of up to so many samples: those of the run before, if they fit."""
        key = threads, most, chunk, self._x.coded > 0
        if self._made_rooms is None or self._made_rooms[0] != key:
            lanes, line, part = self._lanes, vector.LINE_BYTES, self._x.part if self._may_wait else 1
            gradient = max(round_up(int(one["height"]), lanes) * int(one["columns"]) for one in self._layers)
            loss = loss_scratch(self._net.sizes[-1], round_up(most, lanes), self._dtype.itemsize)
            gradients, losses = (
                aligned(threads * count, self._dtype).reshape(threads, count)
                for count in (round_up(one, line) for one in (gradient, loss))
            )
            start, stop = np.empty((2, threads, round_up(most, line)), np.int64)
            turned = self._turned_lists(threads, chunk)
            following = np.empty((threads, round_up(part, line)), np.int32)
            marks = np.zeros((threads, round_up(-(-part // BITS), line)), np.uint64)
            self._made_rooms = key, BatchRooms(gradients, losses, start, stop, turned, following, marks)
        return self._made_rooms[1]

    def _turned_lists(self, threads: int, chunk: int) -> FeatureLists:
        """Return room of each thread for the lists of a block, of so many samples."""
        line, part = vector.LINE_BYTES, self._x.part if chunk > 0 else 0
        start, stop = np.empty((2, threads, round_up(part, line)), np.int32)
        start[:] = chunk * np.arange(start.shape[1])
        index = np.empty((threads, round_up(part * chunk, line)), np.uint16)
        values = 0 if self._x.coded else part * chunk
        return FeatureLists(start, stop, index, np.empty((threads, round_up(values, line)), self._dtype))


def _met_share(x: SampleLists) -> float:
    """Return the share of the features, about, that are not zero in any of the samples of a piece."""
    if not x.listed:
        return 1
    samples = (len(x.start) - 1) // x.parts
    return min(1, max(len(x.index), 1) * tuning.PIECE_SAMPLES / (samples * x.features))


def _piece_samples(most: int, lanes: int, threads: int) -> int:
    """Return the samples of a piece of a batch: a thread's share of the largest, if that is few, and whole vectors."""
    return round_up(min(max(-(-most // max(threads, 2)), 1), tuning.PIECE_SAMPLES), lanes)


def begin_training(
    vectors: list[Any], net: Net, x: SampleLists, y: Any, weight: Any, scales: Any = None, drawn: Drawn | None = None
) -> Trainer:
    """Return a trainer that begins with copies of these vectors: the parameters (k,) and the state of an optimizer.

    x as of `sample_lists.sample_operands`, y and weight as in `network.begin`. If these are some of the samples only,
    ``scales`` are `scores.hit_scales` of all. If all batches are of those ``drawn`` once, updates are faster.
    """
    every = hit_scales(net.loss, y, weight) if scales is None else scales
    return Trainer(vectors, net, x, Part(0, y, weight, every), drawn)


def enter_training(trainer: Trainer, x: SampleLists, y: Any, weight: Any) -> None:
    """Go on with other samples, listed in the same blocks: with `list_samples` for the same density."""
    trainer.enter(x, y, weight)


def train(trainer: Trainer, order: Any, ends: Any, rule: rules.Rule, numbers: Any) -> Any:
    """Update on batch after batch; return the sums of each update, float64 (done, 3) or, with squares, (done, 4)."""
    return trainer.run(order, ends, rule, numbers)


def training_vectors(trainer: Trainer) -> list[Any]:
    """Return copies of the parameters (k,) and of the state of the optimizer."""
    return trainer.vectors()
