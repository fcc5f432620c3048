"""The `paddock` command line.

`main` is the entry point, and `commands` the table of the commands, which imports a command's module when it runs;
`acquire`, `assess`, `volume`, `promote` and `run` hold one group of commands each; `options` has the options that they
share, `output` prints a result, `render` formats results for people, `printing` prints tables and lines, and `progress`
draws progress bars.
"""
