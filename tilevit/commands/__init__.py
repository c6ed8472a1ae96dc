"""The subcommands, by what they work on."""
