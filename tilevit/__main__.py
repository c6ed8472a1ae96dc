"""`python -m tilevit` is the `tilevit` command."""

from tilevit.cli import main

main()
