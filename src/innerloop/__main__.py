"""`python -m innerloop`."""

from innerloop.cli.main import main

main()
