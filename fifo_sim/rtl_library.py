"""The Verilog modules every exported pipeline is made of: synthesizable, one clock, all state in registers.

Written from the semantics, not from the simulator's kernels, so that the two can be held against each other.
"""

LIBRARY = """\
`default_nettype none

// A sequence of numbers: one period of them, and a step from each period to the next. `next` moves on.
module tv_sequence #(parameter W = 32, parameter PERIOD = 1, parameter [W-1:0] STEP = 0,
                     parameter [PERIOD*W-1:0] VALUES = 0)
  (input wire clk, input wire rst, input wire next, output wire [W-1:0] value);
  reg [W-1:0] phase, base;
  assign value = VALUES[phase*W +: W] + base;
  always @(posedge clk)
    if (rst) begin
      phase <= 0;
      base <= 0;
    end else if (next) begin
      phase <= (phase == PERIOD - 1) ? 0 : phase + 1;
      if (phase == PERIOD - 1) base <= base + STEP;
    end
endmodule

// A FIFO of DEPTH tokens, ready/valid: `ready` is room for a token, `seen` how many have ever come out valid, LATENCY
// cycles after their push. `give` slots come back in a cycle and are writable in the next.
module tv_fifo #(parameter W = 32, parameter [W-1:0] DEPTH = 1, parameter LATENCY = 1)
  (input wire clk, input wire rst, input wire push, input wire [W-1:0] give,
   output wire ready, output wire ready_after_push, output reg [W-1:0] seen, output reg [W-1:0] peak);
  reg [W-1:0] level;
  reg [LATENCY-1:0] on_the_way;
  wire [W-1:0] next_level = level + push - give;
  wire [LATENCY:0] moving = {on_the_way, push};
  assign ready = level < DEPTH;
  assign ready_after_push = level + push < DEPTH;
  always @(posedge clk)
    if (rst) begin
      level <= 0;
      seen <= 0;
      peak <= 0;
      on_the_way <= 0;
    end else begin
      level <= next_level;
      if (next_level > peak) peak <= next_level;
      on_the_way <= moving[LATENCY-1:0];
      seen <= seen + moving[LATENCY-1];
    end
endmodule

// The reading side of a FIFO: are the tokens of the next firing there, and how many slots come back with a firing.
module tv_reader #(parameter W = 32, parameter AT_END = 0,
                   parameter NEED_PERIOD = 1, parameter [W-1:0] NEED_STEP = 0,
                   parameter [NEED_PERIOD*W-1:0] NEED_VALUES = 0,
                   parameter REL_PERIOD = 1, parameter [W-1:0] REL_STEP = 0,
                   parameter [REL_PERIOD*W-1:0] REL_VALUES = 0)
  (input wire clk, input wire rst, input wire start, input wire finish, input wire [W-1:0] seen,
   output wire there, output wire [W-1:0] give);
  wire [W-1:0] need, rel;
  wire gives = AT_END ? finish : start;
  reg [W-1:0] given;
  tv_sequence #(.W(W), .PERIOD(NEED_PERIOD), .STEP(NEED_STEP), .VALUES(NEED_VALUES))
    needs (.clk(clk), .rst(rst), .next(start), .value(need));
  tv_sequence #(.W(W), .PERIOD(REL_PERIOD), .STEP(REL_STEP), .VALUES(REL_VALUES))
    rels (.clk(clk), .rst(rst), .next(gives), .value(rel));
  assign there = seen >= need;
  assign give = gives ? rel - given : 0;
  always @(posedge clk)
    if (rst) given <= 0;
    else if (gives) given <= rel;
endmodule

// A stage: takes its inputs on `start`, computes, writes one token to each output, `finish`es with the last of them.
// The counters say where its cycles went while `counting`.
module tv_stage #(parameter W = 32, parameter [W-1:0] FIRINGS = 1, parameter INPUTS = 1, parameter OUTPUTS = 1,
                  parameter BBS = 0, parameter EAGER = 0, parameter PERIOD = 1, parameter [PERIOD*W-1:0] SERVICE = 1)
  (input wire clk, input wire rst, input wire counting,
   input wire [INPUTS-1:0] there, input wire [OUTPUTS-1:0] ready, input wire [OUTPUTS-1:0] ready_after_push,
   output wire [OUTPUTS-1:0] push,
   output wire request, input wire granted, output wire [W-1:0] service, output wire more,
   output wire start, output wire finish, output wire done,
   output reg [W-1:0] busy, output reg [W-1:0] starved, output reg [W-1:0] blocked, output reg [W-1:0] resource,
   output reg [W-1:0] drained);
  reg [W-1:0] started, ended, left;
  reg [OUTPUTS-1:0] written;
  reg at_work;
  wire computed = at_work && left == 0;
  wire space = !BBS || &ready_after_push;
  wire idle = !at_work || finish;
  assign finish = computed && &(written | ready);
  assign push = (EAGER ? computed : finish) ? ready & ~written : 0;
  assign request = idle && started != FIRINGS && &there && space;
  assign start = request && granted;
  assign more = started + start != FIRINGS;
  assign done = ended + finish == FIRINGS;
  tv_sequence #(.W(W), .PERIOD(PERIOD), .VALUES(SERVICE))
    services (.clk(clk), .rst(rst), .next(start), .value(service));
  always @(posedge clk)
    if (rst) begin
      started <= 0;
      ended <= 0;
      left <= 0;
      written <= 0;
      at_work <= 0;
      busy <= 0;
      starved <= 0;
      blocked <= 0;
      resource <= 0;
      drained <= 0;
    end else begin
      started <= started + start;
      ended <= ended + finish;
      at_work <= start || (at_work && !finish);
      left <= start ? service - 1 : computed ? 0 : left - 1;
      written <= finish ? 0 : written | push;
      if (counting) begin
        if (start || (at_work && !computed)) busy <= busy + 1;
        else if (!idle) blocked <= blocked + 1;
        else if (started == FIRINGS) drained <= drained + 1;
        else if (!(&there)) starved <= starved + 1;
        else if (!space) blocked <= blocked + 1;
        else resource <= resource + 1;
      end
    end
endmodule

// A port that goes round: the member whose turn it is may start once the port is free. Members without further firings
// are passed over.
module tv_port_rotate #(parameter W = 32, parameter N = 1)
  (input wire clk, input wire rst, input wire [N-1:0] start, input wire [N-1:0] more, input wire [N*W-1:0] service,
   output reg [N-1:0] grant);
  reg [W-1:0] held, turn, next_turn;
  reg found;
  integer i;
  always @* begin
    grant = 0;
    if (held == 0) grant[turn] = 1;
    next_turn = turn;
    found = 0;
    for (i = 1; i <= N; i = i + 1)
      if (!found && more[(turn + i) % N]) begin
        next_turn = (turn + i) % N;
        found = 1;
      end
  end
  always @(posedge clk)
    if (rst) begin
      held <= 0;
      turn <= 0;
    end else if (|start) begin
      held <= service[turn*W +: W] - 1;
      turn <= next_turn;
    end else if (held != 0) held <= held - 1;
endmodule

// A port that goes to the first member that asks, once it is free.
module tv_port_priority #(parameter W = 32, parameter N = 1)
  (input wire clk, input wire rst, input wire [N-1:0] request, input wire [N-1:0] start, input wire [N*W-1:0] service,
   output reg [N-1:0] grant);
  reg [W-1:0] held, taken;
  integer i;
  always @* begin
    grant = 0;
    taken = 0;
    for (i = N - 1; i >= 0; i = i - 1)
      if (held == 0 && request[i]) begin
        grant = 0;
        grant[i] = 1;
      end
    for (i = 0; i < N; i = i + 1)
      if (start[i]) taken = service[i*W +: W];
  end
  always @(posedge clk)
    if (rst) held <= 0;
    else if (|start) held <= taken - 1;
    else if (held != 0) held <= held - 1;
endmodule
"""
