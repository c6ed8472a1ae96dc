"""Where the simulator's kernels keep what: rows of words for stages, edges and ports. Everything is uint64.

One integer type throughout keeps numba from turning mixed signs into floats and from checking for negative indices.
"""

from __future__ import annotations

import numpy as np

U = np.uint64

# a stage
STAGE_WORDS = U(25)
FIRED = U(0)  # firings that have ended
FIRINGS = U(1)  # firings in all
KIND = U(2)  # the bits below
FREE = U(3)  # end of the last firing: the stage is free from then on
START = U(4)  # start of the firing at work
AT_WORK = U(5)  # 1 between a start and its end
SERVICE = U(6)  # offset of its service times in the table, words in their period, and the place in it
SERVICE_PERIOD = U(7)
SERVICE_PHASE = U(8)
BLOCKED = U(9)  # cycles so far
WAITED = U(10)  # cycles so far waiting for a port
HISTORY = U(11)  # offset of its firings in starts and ends
PUSHED_LAST = U(12)  # latest push of the firing at work, where outputs are written one by one
PRIORITY_PORT = U(13)  # 1 + row of the port with priority that it uses; 0: none
ASKED = U(14)  # 1 + the cycle in which it was ready for that port; 0: it has not asked
GRANTED = U(15)  # 1 + the cycle in which it may start there; 0: not granted
INPUTS = U(16)  # offset in the links of its input edges (rows), their number
INPUT_COUNT = U(17)
OUTPUTS = U(18)  # the same for its output edges
OUTPUT_COUNT = U(19)
PORTS = U(20)  # the same for its rotating ports
PORT_COUNT = U(21)
ONLY_INPUT = U(22)  # rows of the two edges of a stage of kind LINE
ONLY_OUTPUT = U(23)
SERVICE_STRIDE = U(24)  # words from one service time to the next

# bits of KIND
BBS = U(1)
EAGER = U(2)
PORT = U(4)  # uses a port, of either kind
PLAIN = U(8)  # bas, lazy, no port, and its times fit whatever happens
QUICK = U(16)  # plain, with 1 or 2 inputs of one token each, 1 to 3 outputs, all single, among plain stages
LINE = U(32)  # quick, with one input and one output

# an edge
EDGE_WORDS = U(29)
PUSHED = U(0)  # tokens written
RELEASED = U(1)  # tokens given back
SLOTS = U(2)  # offset of its slots, and their number - 1 (a power of two, less one)
MASK = U(3)
DEPTH = U(4)
LATENCY = U(5)
PEAK = U(6)  # largest occupancy so far
SRC = U(7)  # stages, not rows
DST = U(8)
AT_END = U(9)  # 1: slots come back when a firing ends
NEEDED = U(10)  # need of the consumer's firing before
NEED = U(11)  # need of its next firing
NEED_AT = U(12)  # pattern: offset in the table, begin and end of its loop, loops left, step
NEED_FIRST = U(13)
NEED_LAST = U(14)
NEED_LEFT = U(15)
NEED_STEP = U(16)
NEED_PHASE = U(17)  # place in the table, and what the loops have grown by
NEED_BASE = U(18)
REL_AT = U(19)  # the same for what is given back
REL_FIRST = U(20)
REL_LAST = U(21)
REL_LEFT = U(22)
REL_STEP = U(23)
REL_PHASE = U(24)
REL_BASE = U(25)
TAKES_ONE = U(26)  # 1: need is k + 1
GIVES_ONE = U(27)  # 1: rel is k + 1
SINGLE = U(28)  # 1: the order of firings leaves one token in it at most

# a port
PORT_WORDS = U(5)
MEMBERS = U(0)  # offset of its members (stages, not rows) in the links, their number
MEMBER_COUNT = U(1)
TURN = U(2)  # member whose turn it is
FREE_AT = U(3)  # the port is free from then on
PRIORITY = U(4)  # 1: priority, 0: rotate

# how a walk stops
STILL, MOVED, OVERFLOW = 0, 1, 2
