"""Ground floor: numba and llvmlite kernels. They know arrays; they know no model and no torch module."""
