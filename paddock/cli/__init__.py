"""The `paddock` command line.

`main` is the entry point; `acquire`, `assess`, `volume`, `promote` and `run` hold one group of commands each; `options`
has the options that they share, `output` prints a result, `render` formats results for people, and `progress` draws
progress bars.
"""
