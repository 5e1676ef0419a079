"""What the `vera` command does, one module per group; imported only when asked for."""
