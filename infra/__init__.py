"""Where Paddock runs: how it is set up, and the stack on one machine."""
