"""tilevit: finds a tiny Vision Transformer together with the streaming hardware that runs it."""

__version__ = "0.1.0"
