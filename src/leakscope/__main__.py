"""`python -m leakscope` is the command line."""

from leakscope.cli.main import main

if __name__ == "__main__":
    main()
