import random
from collections import Counter, deque

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from screc_hw.axi.arbiter import ReadArbiter, arbiter_id_bits
from screc_hw.netlist import check_netlist

WIDTHS = {"data_bits": 16, "address_bits": 14, "id_bits": 2}


def levels(inputs):
    return (inputs - 1).bit_length()


def simulate(inputs, cycles, *, asks, accepts, answers, seed=0):
    """Run masters that ask at ``asks(number)`` and a memory; return what each side saw."""
    rng = random.Random(seed)
    dut = ReadArbiter(inputs, **WIDTHS)
    asked = [[] for _ in range(inputs)]  # cycle, id, address, beats
    came = [[] for _ in range(inputs)]  # cycle, id, data, last
    reads, sent = [], []  # cycle, id, address; cycle, id, data

    def master(number):
        axi = dut.i[number]

        async def ask(ctx):
            cycle = 0
            while True:
                while not asks(number):
                    await ctx.tick()
                    cycle += 1
                name, beats = rng.randrange(4), rng.randint(1, 4)
                address = len(asked[number]) << 4 | number
                ctx.set(axi.arvalid, 1)
                ctx.set(axi.arid, name)
                ctx.set(axi.araddr, address)
                ctx.set(axi.arlen, beats - 1)
                ready = False
                while not ready:
                    _, _, ready = await ctx.tick().sample(axi.arready)
                    cycle += 1
                ctx.set(axi.arvalid, 0)
                asked[number].append((cycle - 1, name, address, beats))

        async def take(ctx):
            cycle = 0
            while True:
                _, _, valid, *beat = await ctx.tick().sample(
                    axi.rvalid, axi.rid, axi.rdata, axi.rlast
                )
                if valid:
                    came[number].append((cycle, *beat))
                cycle += 1

        return ask, take

    async def memory(ctx):
        axi = dut.o
        queues = {}
        for cycle in range(cycles):
            ctx.set(axi.arready, int(accepts()))
            names = [name for name, queue in queues.items() if queue]
            beat = bool(names) and answers()
            ctx.set(axi.rvalid, int(beat))
            if beat:
                name = rng.choice(names)
                data, last = queues[name].popleft()
                ctx.set(axi.rid, name)
                ctx.set(axi.rdata, data)
                ctx.set(axi.rlast, last)
                sent.append((cycle, name, data))
            assert ctx.get(axi.rready)
            _, _, valid, ready, name, address, length = await ctx.tick().sample(
                axi.arvalid, axi.arready, axi.arid, axi.araddr, axi.arlen
            )
            if valid and ready:
                reads.append((cycle, name, address))
                queue = queues.setdefault(name, deque())
                queue.extend((address + beat, beat == length) for beat in range(length + 1))

    top = Module()
    top.domains.sync = ClockDomain()  # one input alone has no registers
    top.submodules.dut = dut
    sim = Simulator(top)
    sim.add_clock(1e-6)
    for number in range(inputs):
        for process in master(number):
            sim.add_testbench(process, background=True)
    sim.add_testbench(memory)
    sim.run()
    return asked, came, reads, sent


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_arbiter_gives_every_master_its_beats_in_order(inputs, seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    remaining = [40] * inputs

    def asks(number):
        if remaining[number] and rng.random() < 0.3:
            remaining[number] -= 1
            return True
        return False

    asked, came, reads, sent = simulate(
        inputs,
        1500,
        asks=asks,
        accepts=lambda: rng.random() < 0.7,
        answers=lambda: rng.random() < 0.8,
        seed=seed,
    )
    assert len(reads) == 40 * inputs
    assert sum(map(len, came)) == len(sent)
    for own, beats in zip(asked, came, strict=True):
        assert len(own) == 40
        for name in range(4):
            wanted = [
                (address + beat, int(beat == count - 1))
                for _, number, address, count in own
                if number == name
                for beat in range(count)
            ]
            assert [(data, last) for _, number, data, last in beats if number == name] == wanted


@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
def test_arbiter_takes_a_cycle_per_level_each_way(inputs):
    once = iter([True])
    asked, came, reads, sent = simulate(
        inputs,
        30,
        asks=lambda number: number == 0 and next(once, False),
        accepts=lambda: True,
        answers=lambda: True,
    )
    assert reads[0][0] - asked[0][0][0] == levels(inputs)
    assert [cycle for cycle, *_ in came[0]] == [cycle + levels(inputs) for cycle, *_ in sent]


def test_arbiter_moves_a_burst_a_cycle_and_shares_alike():
    _, _, reads, _ = simulate(
        4, 120, asks=lambda number: True, accepts=lambda: True, answers=lambda: True
    )
    cycles = [cycle for cycle, *_ in reads]
    assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))
    for start in range(0, 100, 4):
        turns = Counter(name >> 2 for _, name, _ in reads[start : start + 4])
        assert set(turns.values()) == {1}


def test_arbiter_gives_a_master_a_level_lower_twice_the_share_at_most():
    _, _, reads, _ = simulate(
        3, 170, asks=lambda number: True, accepts=lambda: True, answers=lambda: True
    )
    turns = Counter(name >> 2 for _, name, _ in reads[8:168])
    assert turns == {0: 40, 1: 40, 2: 80}


def test_arbiter_lets_one_master_use_the_port_alone():
    _, _, reads, _ = simulate(
        4, 60, asks=lambda number: number == 2, accepts=lambda: True, answers=lambda: True
    )
    assert len(reads) >= 57


@pytest.mark.parametrize(("inputs", "bits"), [(1, 2), (2, 3), (3, 4), (4, 4), (5, 5), (8, 5)])
def test_arbiter_adds_a_bit_per_level_to_the_id(inputs, bits):
    assert arbiter_id_bits(inputs, 2) == bits
    dut = ReadArbiter(inputs, **WIDTHS)
    assert len(dut.o.arid) == len(dut.o.rid) == bits
    check_netlist(dut)


def test_arbiter_refuses_no_inputs():
    with pytest.raises(ValueError, match=r"^inputs must be at least 1, not 0$"):
        ReadArbiter(0, **WIDTHS)
