// The part of a DSP48E2 that SCRec's instances use: AREG = BREG = MREG = PREG = 1, P = A * B + Z with
// Z = 0 or PCIN. Written from UG579; an instance with other attributes or modes stops the simulation.
module DSP48E2 #(
    parameter AMULTSEL = "A", parameter BMULTSEL = "B", parameter USE_MULT = "MULTIPLY",
    parameter AREG = 1, parameter ACASCREG = 1, parameter BREG = 1, parameter BCASCREG = 1,
    parameter CREG = 1, parameter DREG = 1, parameter ADREG = 1, parameter MREG = 1,
    parameter PREG = 1, parameter ALUMODEREG = 1, parameter CARRYINREG = 1,
    parameter CARRYINSELREG = 1, parameter INMODEREG = 1, parameter OPMODEREG = 1
) (
    input CLK, input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D, input [47:0] PCIN,
    input [8:0] OPMODE, input [3:0] ALUMODE, input [4:0] INMODE, input CARRYIN, input [2:0] CARRYINSEL,
    input CEA1, input CEA2, input CEAD, input CEALUMODE, input CEB1, input CEB2, input CEC,
    input CECARRYIN, input CECTRL, input CED, input CEINMODE, input CEM, input CEP,
    input RSTA, input RSTALLCARRYIN, input RSTALUMODE, input RSTB, input RSTC, input RSTCTRL,
    input RSTD, input RSTINMODE, input RSTM, input RSTP,
    output [47:0] P, output [47:0] PCOUT
);
  wire resets = |{RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP};
  initial
    if (AREG != 1 || BREG != 1 || MREG != 1 || PREG != 1 || OPMODEREG != 0 || ALUMODEREG != 0
        || INMODEREG != 0 || AMULTSEL != "A" || BMULTSEL != "B" || USE_MULT != "MULTIPLY")
      $fatal(1, "DSP48E2 with attributes that the model has not");
  reg signed [26:0] a = 0;
  reg signed [17:0] b = 0;
  reg signed [44:0] m = 0;
  reg [47:0] p = 0;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : 48'b0;
  always @(posedge CLK) begin
    if (resets || ALUMODE != 0 || INMODE != 0 || OPMODE[3:0] != 4'b0101 || OPMODE[8:7] != 0
        || OPMODE[6:4] > 1 || CARRYIN || CARRYINSEL != 0)
      $fatal(1, "DSP48E2 in a mode that the model has not");
    if (CEA2) a <= A[26:0];
    if (CEB2) b <= B;
    if (CEM) m <= a * b;
    if (CEP) p <= z + {{3{m[44]}}, m};
  end
  assign P = p;
  assign PCOUT = p;
endmodule
