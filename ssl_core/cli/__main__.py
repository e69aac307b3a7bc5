"""`python -m ssl_core.cli`: the `sslx` command."""

from ssl_core.cli.app import main

if __name__ == "__main__":
    main()
