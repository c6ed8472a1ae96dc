"""Settings that all tests share."""

from hypothesis import settings

settings.register_profile("tilevit", deadline=None)  # the first example may compile a kernel
settings.load_profile("tilevit")
