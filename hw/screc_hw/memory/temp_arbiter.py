from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from screc_hw.axi import ReadSignature


class ReadArbiter(wiring.Component):
    def __init__(self, inputs, *, data_bits, address_bits, id_bits):
        self.idb = id_bits
        super().__init__(
            {
                "i": In(
                    ReadSignature(data_bits=data_bits, address_bits=address_bits, id_bits=id_bits)
                ).array(2),
                "o": Out(
                    ReadSignature(
                        data_bits=data_bits, address_bits=address_bits, id_bits=id_bits + 1
                    )
                ),
            }
        )

    def elaborate(self, platform):
        m = Module()
        turn = Signal()
        o = self.o
        pick = Signal()
        m.d.comb += pick.eq(Mux(self.i[0].arvalid & self.i[1].arvalid, turn, self.i[1].arvalid))
        free = ~o.arvalid | o.arready
        with m.If(free):
            m.d.sync += o.arvalid.eq(self.i[0].arvalid | self.i[1].arvalid)
            m.d.sync += turn.eq(~pick)
            for n in (0, 1):
                with m.If(pick == n):
                    for name in ("araddr", "arlen", "arsize", "arburst"):
                        m.d.sync += getattr(o, name).eq(getattr(self.i[n], name))
                    m.d.sync += o.arid.eq(self.i[n].arid | (n << self.idb))
        for n in (0, 1):
            m.d.comb += self.i[n].arready.eq(free & (pick == n) & self.i[n].arvalid)
            m.d.sync += [
                self.i[n].rvalid.eq(o.rvalid & (o.rid[self.idb] == n)),
                self.i[n].rdata.eq(o.rdata),
                self.i[n].rid.eq(o.rid),
                self.i[n].rresp.eq(o.rresp),
                self.i[n].rlast.eq(o.rlast),
            ]
        m.d.comb += o.rready.eq(1)
        return m
