"""Where the simulator's kernels keep what: rows of words for stages, edges and ports. Everything is uint64.

One integer type throughout keeps numba from turning mixed signs into floats and from checking for negative indices.
"""

from __future__ import annotations

import numpy as np

U = np.uint64

# a stage; what every firing touches fills the first two cache lines
STAGE_WORDS = U(29)
FIRED = U(0)  # firings that have ended
KIND = U(1)  # the bits below
FREE = U(2)  # end of the last firing: the stage is free from then on
BLOCKED = U(3)  # cycles so far
SERVICE_AT = U(4)  # place of its next service time in the table
SERVICE_STRIDE = U(5)  # from one service time to the next; 0 if there is only one
SERVICE_END = U(6)  # past the last, where it goes on with the first
SERVICE = U(7)  # place of the first
HISTORY = U(8)  # offset of its first firing in starts and ends; see HISTORY_STRIDE
IN_1, IN_2 = U(9), U(10)  # rows of its first input edges
OUT_1, OUT_2, OUT_3 = U(11), U(12), U(13)  # rows of its first output edges
INPUT_COUNT = U(14)  # of the edges
OUTPUT_COUNT = U(15)
INPUTS = U(16)  # offset in the links of the rows of all its input edges
OUTPUTS = U(17)  # the same for its output edges
START = U(18)  # start of the firing at work
AT_WORK = U(19)  # 1 between a start and its end
FIRINGS = U(20)  # firings in all
WAITED = U(21)  # cycles so far waiting for a port
PUSHED_LAST = U(22)  # latest push of the firing at work, where outputs are written one by one
PRIORITY_PORT = U(23)  # 1 + row of the port with priority that it uses; 0: none
ASKED = U(24)  # 1 + the cycle in which it was ready for that port; 0: it has not asked
GRANTED = U(25)  # 1 + the cycle in which it may start there; 0: not granted
PORTS = U(26)  # as for inputs, its rotating ports
PORT_COUNT = U(27)
HISTORY_STRIDE = U(28)  # words from one firing to the next in starts and ends, the same for all stages

# bits of KIND
BBS = U(1)
EAGER = U(2)
PORT = U(4)  # uses a port, of either kind
PLAIN = U(8)  # bas, lazy, no port, and its times fit whatever happens
FEW = U(16)  # plain, with 1 or 2 inputs and 1 to 3 outputs
QUICK = U(32)  # few, and of each input a firing takes one token and gives it back at its start
HANDS = U(64)  # quick, and all inputs and outputs are HANDED
LINE = U(128)  # hands, with one input and one output

# an edge; what every firing touches fills the first cache line
EDGE_WORDS = U(29)
SLOTS = U(0)  # offset of its slots, and their number - 1 (a power of two, less one)
MASK = U(1)
DEPTH = U(2)
LATENCY = U(3)
PEAK = U(4)  # largest occupancy so far
PUSHED = U(5)  # tokens written
RELEASED = U(6)  # tokens given back
HANDED = U(7)  # 1: a firing takes one token and gives it back at its start, both its stages are plain, and the order of
# firings leaves one token in it at most: each is handed on before the next, and PUSHED and RELEASED are not kept
TAKES_ONE = U(8)  # 1: need is k + 1
GIVES_ONE = U(9)  # 1: rel is k + 1
AT_END = U(10)  # 1: slots come back when a firing ends
NEEDED = U(11)  # need of the consumer's firing before
NEED = U(12)  # need of its next firing
NEED_AT = U(13)  # pattern: offset in the table, begin and end of its loop, loops left, step
NEED_FIRST = U(14)
NEED_LAST = U(15)
NEED_LEFT = U(16)
NEED_STEP = U(17)
NEED_PHASE = U(18)  # place in the table, and what the loops have grown by
NEED_BASE = U(19)
REL_AT = U(20)  # the same for what is given back
REL_FIRST = U(21)
REL_LAST = U(22)
REL_LEFT = U(23)
REL_STEP = U(24)
REL_PHASE = U(25)
REL_BASE = U(26)
SRC = U(27)  # stages, not rows
DST = U(28)
# what changes by as much in every period of an order of firings
COUNTS = (PUSHED, RELEASED, NEEDED, NEED, NEED_BASE, REL_BASE, NEED_LEFT, REL_LEFT)

# a port
PORT_WORDS = U(5)
MEMBERS = U(0)  # offset of its members (stages, not rows) in the links, their number
MEMBER_COUNT = U(1)
TURN = U(2)  # member whose turn it is
FREE_AT = U(3)  # the port is free from then on
PRIORITY = U(4)  # 1: priority, 0: rotate

# how a walk stops
STILL, MOVED, OVERFLOW = 0, 1, 2
