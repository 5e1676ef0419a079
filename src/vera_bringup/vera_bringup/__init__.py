"""The `vera` command, the supervisor, and what spans several rooms."""
