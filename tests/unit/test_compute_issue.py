"""Steps of operations: those of a plain loop, one per cycle, columns never in each other's way."""

import dataclasses
import itertools
import random

import pytest

from screc_hw.compute.issue import Issue
from screc_hw.compute.params import ComputeParams
from screc_hw.compute.tensors import CHAIN
from tests.support.pysim import driver, pauses, simulate


def params(columns):
    return ComputeParams(
        rows=2,
        columns=columns,
        lanes=4,
        vector_words=1,
        max_vectors=1,
        max_dense=1,
        max_k=100,
        max_n=100,
        activation_words=32,
        weight_steps=4000,
        requantise_words=1,
        program_length=1,
    )


@dataclasses.dataclass(frozen=True)
class Step:
    activation: int
    weight: int
    last: int
    begin: int
    end: int
    outs: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A LINEAR; ``k`` and ``n`` are counts."""

    k: int
    n: int
    source: int
    weight: int
    slot: int

    @classmethod
    def random(cls, rng, most=30):
        low = rng.choice([CHAIN, 2 * CHAIN, most])
        return cls(
            rng.randint(1, low),
            rng.randint(1, most),
            rng.randrange(60),
            rng.randrange(500),
            rng.randrange(3),
        )

    @property
    def links(self):
        return -(-self.k // CHAIN)

    def payload(self):
        return {
            "source": self.source,
            "links": self.links - 1,
            "tail": (self.k - 1) % CHAIN,
            "n": self.n - 1,
            "weight": self.weight,
            "place": {"slot": self.slot},
        }

    def steps(self, outs):
        """All steps, group after group."""
        weight = self.weight
        for first in range(0, self.n, outs):
            for link in range(self.links):
                inputs = min(CHAIN, self.k - CHAIN * link)
                yield Step(
                    self.source + link,
                    weight,
                    inputs - 1,
                    int(link == 0),
                    int(link == self.links - 1),
                    min(outs, self.n - first),
                )
                weight += 1


def times(jobs, outs):
    """Cycle of every step, from the first one's: as early as the columns before allow."""
    cycle, free = 0, 0  # ``free``: when a sum may be complete again
    for job in jobs:
        cycle = max(cycle, free - job.links + 1)
        for first in range(0, job.n, outs):
            here = min(outs, job.n - first)
            yield from range(cycle, cycle + job.links)
            free = cycle + job.links - 1 + here
            cycle += max(job.links, here)


def run(p, jobs, *, pattern="none", seed=0):
    """Return (cycle, step) of all steps, what was told of columns, and the cycles with ``busy``."""
    dut = Issue(p)
    got, told, busy = [], [], []
    pause = pauses(pattern, seed + 1)

    async def collect(ctx):
        cycle = 0
        while True:
            take = not pause()
            ctx.set(dut.columns.ready, take)
            _, _, valid, columns, step, tag, active = await ctx.tick().sample(
                dut.columns.valid, dut.columns.payload, dut.step, dut.tag, dut.busy
            )
            if valid and take:
                told.append((columns.n + 1, columns.place.slot))
            if tag.valid:
                values = (step.activation, step.weight, step.last, tag.begin, tag.end, tag.outs + 1)
                got.append((cycle, Step(*values)))
            busy.append(active)
            cycle += 1

    wanted = sum(job.links * -(-job.n // p.outs) for job in jobs)
    simulate(
        dut,
        driver(dut.i, [job.payload() for job in jobs], pattern, seed),
        background=[collect],
        until=lambda: len(got) >= wanted,
    )
    return got, told, busy


@pytest.mark.parametrize("columns", [8, 16, 32, 64])
def test_steps_are_those_of_a_loop_without_a_gap(columns):
    p = params(columns)
    rng = random.Random(columns)
    jobs = [
        # every length of a sum beside every count of columns
        *(Job(k, n, 0, 0, 0) for k in (1, 9, 17, 33, 65) for n in (1, p.outs, p.outs + 1)),
        *(Job.random(rng) for _ in range(30)),
    ]
    got, told, busy = run(p, jobs)
    assert [step for _, step in got] == [step for job in jobs for step in job.steps(p.outs)]
    assert told == [(job.n, job.slot) for job in jobs]
    first = got[0][0]
    assert [cycle - first for cycle, _ in got] == list(times(jobs, p.outs))
    if columns == 8:  # one output at a time: every cycle has a step
        assert sum(busy) == len(got) == got[-1][0] - first + 1


@pytest.mark.parametrize("columns", [8, 16, 64])
@pytest.mark.parametrize("seed", [1, 2])
def test_pauses_change_no_step_and_columns_keep_their_distance(columns, seed):
    p = params(columns)
    rng = random.Random(seed)
    jobs = [Job.random(rng) for _ in range(40)]
    got, told, _ = run(p, jobs, pattern="random", seed=seed)
    assert [step for _, step in got] == [step for job in jobs for step in job.steps(p.outs)]
    assert told == [(job.n, job.slot) for job in jobs]
    ends = [(cycle, step.outs) for cycle, step in got if step.end]
    for (before, outs), (after, _) in itertools.pairwise(ends):
        assert after - before >= outs


def test_cycles_are_those_of_the_formula():
    """Operations that are long enough follow each other at once."""
    p = params(32)
    jobs = [Job(33, 5, 0, 0, 0), Job(100, 30, 0, 0, 1), Job(40, 1, 0, 0, 2)]
    got, _, busy = run(p, jobs)
    assert sum(busy) == sum(p.linear_steps(job.k, job.n) for job in jobs)
    assert got[-1][0] - got[0][0] + 1 == sum(busy)
