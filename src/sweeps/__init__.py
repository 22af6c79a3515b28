"""Many runs at once: planned and checked together, each in a process of its own."""
