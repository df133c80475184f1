"""The command line: strings become objects here and only here."""
