"""The command line. `insitu --help` lists the commands; every one takes --json."""

from insitu.host.cli.app import main

__all__ = ["main"]
