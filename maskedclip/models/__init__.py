"""The networks. This file loads no torch, for commands that answer before it is loaded."""

BUILTIN = "builtin"  # the text tower that is built here, of random weights
