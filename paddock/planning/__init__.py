"""Select the files of a model, estimate its memory, and plan how it runs on a machine, all before it is downloaded."""
