import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from screc_hw.axi import SLVERR
from screc_hw.axi.guard import ReadGuard
from screc_hw.netlist import check_netlist

TIMEOUT = 12
IDS = 4
WIDTHS = {"data_bits": 16, "address_bits": 14, "id_bits": 2}


def make(**changes):
    return ReadGuard(**{**WIDTHS, "timeout_cycles": TIMEOUT, "outstanding": 64, **changes})


class Memory:
    """Answers IDs in any order, the reads of an ID in theirs.

    ``accepts`` and ``answers`` say cycle by cycle whether the channel moves.
    """

    def __init__(self, axi, *, seed=0, accepts=lambda t: True, answers=lambda t: True):
        self.axi = axi
        self.accepts = accepts
        self.answers = answers
        self.queues = [deque() for _ in range(IDS)]
        self.rng = random.Random(seed)
        self.addresses = []
        self.sent = []
        self.responses = lambda address: 0

    async def run(self, ctx):
        axi = self.axi
        cycle = 0
        while True:
            ctx.set(axi.arready, int(self.accepts(cycle)))
            ready = [number for number, queue in enumerate(self.queues) if queue]
            beat = bool(ready) and self.answers(cycle)
            ctx.set(axi.rvalid, int(beat))
            if beat:
                number = self.rng.choice(ready)
                address, last = self.queues[number].popleft()
                ctx.set(axi.rid, number)
                ctx.set(axi.rdata, data_at(address))
                ctx.set(axi.rresp, self.responses(address))
                ctx.set(axi.rlast, int(last))
                self.sent.append((cycle, number))
            _, _, valid, ready_, first, name, length = await ctx.tick().sample(
                axi.arvalid, axi.arready, axi.araddr, axi.arid, axi.arlen
            )
            if valid and ready_:
                self.addresses.append((cycle, first))
                beats = [(first + 2 * beat, beat == length) for beat in range(length + 1)]
                self.queues[name].extend(beats)
            cycle += 1


def data_at(address):
    return (address * 40503 + 1) & 0xFFFF | 1


class Masters:
    """Asks for ``reads`` of (cycle, id, address, beats), and takes every beat that comes."""

    def __init__(self, axi, reads):
        self.axi = axi
        self.reads = reads
        self.expected = [deque() for _ in range(IDS)]
        self.beats = []  # cycle, id, address, good
        self.cycle = 0

    async def ask(self, ctx):
        axi = self.axi
        for start, number, address, beats in self.reads:
            while self.cycle < start:
                await ctx.tick()
            ctx.set(axi.arvalid, 1)
            ctx.set(axi.arid, number)
            ctx.set(axi.araddr, address)
            ctx.set(axi.arlen, beats - 1)
            await ctx.tick().until(axi.arready)
            self.expected[number].extend(address + 2 * beat for beat in range(beats))
            ctx.set(axi.arvalid, 0)

    async def take(self, ctx):
        axi = self.axi
        while True:
            _, _, valid, number, data, resp = await ctx.tick().sample(
                axi.rvalid, axi.rid, axi.rdata, axi.rresp
            )
            if valid:
                assert self.expected[number], f"cycle {self.cycle}: nobody asked for ID {number}"
                address = self.expected[number].popleft()
                good = resp == 0
                assert data == data_at(address) if good else (resp == SLVERR and data == 0)
                self.beats.append((self.cycle, number, address, good))
            self.cycle += 1

    @property
    def waiting(self):
        return sum(map(len, self.expected))


def simulate(reads, cycles, *, guard=None, **memory):
    """Run and return masters, memory, and the cycles of ``expired`` and of ``owing``."""
    guard = guard or make()
    masters, port = Masters(guard.i, reads), Memory(guard.o, **memory)
    expired, owing = [], []

    async def watch(ctx):
        for cycle in range(cycles):
            _, _, pulse, level = await ctx.tick().sample(guard.expired, guard.owing)
            if pulse:
                expired.append(cycle)
            if level:
                owing.append(cycle)

    sim = Simulator(guard)
    sim.add_clock(1e-6)
    for process in (masters.take, port.run, masters.ask):
        sim.add_testbench(process, background=True)
    sim.add_testbench(watch)
    sim.run()
    return masters, port, expired, owing


def burst(count=6, beats=4):
    return [(0, number % IDS, 64 * number, beats) for number in range(count)]


def test_guard_passes_reads_and_beats_a_cycle_later():
    reads = [(0, number % IDS, 2 * number, 1) for number in range(40)]
    masters, port, expired, owing = simulate(reads, 60)
    assert [address for _, address in port.addresses] == [address for *_, address, _ in reads]
    assert [cycle for cycle, _ in port.addresses] == list(range(1, 41))
    assert [cycle for cycle, *_ in masters.beats] == [cycle + 1 for cycle, _ in port.sent]
    assert all(good for *_, good in masters.beats)
    assert (masters.waiting, expired, owing) == (0, [], [])


def test_guard_answers_for_a_memory_that_stops_for_ever():
    later = [(60 + number, 3, 512 + 2 * number, 1) for number in range(20)]
    masters, port, expired, owing = simulate(burst() + later, 140, answers=lambda cycle: cycle < 5)
    stopped = port.sent[-1][0]
    assert masters.waiting == 0
    assert len(masters.beats) == 6 * 4 + 20
    assert [good for *_, good in masters.beats] == [True] * len(port.sent) + [False] * (
        44 - len(port.sent)
    )
    assert expired == [stopped + TIMEOUT + 1]
    assert owing == list(range(expired[0], 140)), "a reset is needed"
    answers = [cycle for cycle, *_, good in masters.beats if not good]
    first = 24 - len(port.sent)
    assert answers[first - 1] - expired[0] <= first + 2 * IDS, "a beat a cycle, but for the turns"
    assert len(port.addresses) == 6, "later reads do not reach the port"


def test_guard_lets_reads_through_again_when_the_late_beats_have_come():
    later = [(120, number % IDS, 2048 + 64 * number, 3) for number in range(8)]
    masters, port, expired, owing = simulate(
        burst() + later, 260, answers=lambda cycle: cycle < 5 or cycle > 60
    )
    assert masters.waiting == 0
    assert len(expired) == 1
    assert owing[-1] < 120
    good = [address for *_, address, ok in masters.beats if ok]
    assert sorted(good[-24:]) == sorted(2048 + 64 * n + 2 * b for n in range(8) for b in range(3))
    assert len(port.sent) == 24 + 24, "the late beats came, and were dropped"
    assert len(masters.beats) == 24 + 24


def test_guard_keeps_an_address_offered_to_a_port_that_does_not_accept():
    masters, port, expired, owing = simulate(
        [*burst(3), (100, 1, 4096, 2)], 160, accepts=lambda cycle: cycle > 50
    )
    assert expired == [1 + TIMEOUT], "offered in cycle 1, waits for TIMEOUT cycles"
    assert port.addresses[0] == (51, 0)
    assert [address for _, address in port.addresses] == [0, 4096]
    assert masters.waiting == 0
    assert owing[-1] < 80
    assert [good for *_, good in masters.beats] == [False] * 12 + [True] * 2


@pytest.mark.parametrize("late", [0, 1])
def test_guard_waits_for_a_beat_exactly_as_long_as_it_says(late):
    # the address is offered in cycle 1
    masters, _, expired, owing = simulate(
        [(0, 2, 64, 1)], 60, answers=lambda cycle: cycle >= 1 + TIMEOUT + late
    )
    assert [good for *_, good in masters.beats] == [not late]
    assert bool(expired) == bool(owing) == bool(late)
    assert masters.waiting == 0


@pytest.mark.parametrize("late", [0, 1])
def test_guard_waits_between_beats_exactly_as_long_as_it_says(late):
    gap = TIMEOUT + late
    masters, port, expired, _ = simulate(
        [(0, 2, 64, 2)], 60, answers=lambda cycle: cycle == 4 or cycle >= 4 + gap
    )
    assert [cycle for cycle, _ in port.sent] == [4, 4 + gap]
    assert [good for *_, good in masters.beats] == [True, not late]
    assert expired == [4 + gap] * late


@pytest.mark.parametrize("late", [0, 1])
def test_guard_waits_for_acceptance_exactly_as_long_as_it_says(late):
    last = TIMEOUT + late  # offered from cycle 1 on
    _, port, expired, owing = simulate([(0, 0, 0, 1)], 60, accepts=lambda cycle: cycle >= last)
    assert port.addresses == [(last, 0)]
    assert expired == [1 + TIMEOUT] * late
    assert bool(owing) == bool(late)


def test_guard_takes_time_between_reads_as_no_failure():
    reads = [(4 * TIMEOUT * number, number, 64 * number, 1) for number in range(4)]
    masters, _, expired, _ = simulate(reads, 20 * TIMEOUT)
    assert (masters.waiting, expired) == (0, [])
    assert all(good for *_, good in masters.beats)


def test_guard_passes_error_responses_untouched():
    guard = make()
    masters = Masters(guard.i, burst(2))
    port = Memory(guard.o)
    port.responses = lambda address: 3
    seen = []

    async def run(ctx):
        for _ in range(40):
            _, _, valid, resp, data = await ctx.tick().sample(
                guard.i.rvalid, guard.i.rresp, guard.i.rdata
            )
            assert not ctx.get(guard.owing)
            if valid:
                seen.append((resp, data))

    sim = Simulator(guard)
    sim.add_clock(1e-6)
    sim.add_testbench(port.run, background=True)
    sim.add_testbench(masters.ask, background=True)
    sim.add_testbench(run)
    sim.run()
    assert sorted(seen) == sorted((3, data_at(64 * n + 2 * b)) for n in range(2) for b in range(4))


@pytest.mark.parametrize("seed", range(6))
def test_guard_gives_every_beat_asked_for_with_a_memory_that_comes_and_goes(seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    reads, cycle = [], 0
    for number in range(120):
        cycle += rng.choice((0, 0, 4, 20))
        beats = rng.randint(1, 8)
        reads.append((cycle, rng.randrange(IDS), 16 * number, beats))
    phase = [rng.random() < 0.6 for _ in range(100)]

    def up(cycle):
        return cycle > 2000 or (phase[cycle // 25 % 100] and rng.random() < 0.8)

    masters, port, expired, owing = simulate(
        reads, 3000, guard=make(outstanding=1023), seed=seed, accepts=up, answers=up
    )
    assert masters.waiting == 0
    assert len(masters.beats) == sum(beats for *_, beats in reads)
    assert expired, "the memory fails now and then"
    assert not owing or owing[-1] < 2900
    assert 0 < sum(good for *_, good in masters.beats) < len(port.sent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id_bits": 0}, "id_bits must lie in 1..6, not 0"),
        ({"id_bits": 7}, "id_bits must lie in 1..6, not 7"),
        ({"timeout_cycles": 0}, "timeout_cycles must be at least 1, not 0"),
        ({"outstanding": 0}, "outstanding must be at least 1, not 0"),
    ],
)
def test_guard_refuses(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**change)


@pytest.mark.parametrize("change", [{}, {"timeout_cycles": 1}, {"outstanding": 1, "id_bits": 1}])
def test_guard_is_a_sound_netlist(change):
    check_netlist(make(**change))
