"""`python -m pnag`: the command line."""

from pnag.cli.main import main

main()
