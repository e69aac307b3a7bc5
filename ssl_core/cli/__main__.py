"""`python -m ssl_core.cli`: the `sslx` command."""

from ssl_core.cli.app import main

main()
