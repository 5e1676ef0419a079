"""What `vera doctor` looks at: one module a subject, each check a function with its probes."""
