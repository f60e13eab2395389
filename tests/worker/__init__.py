"""Workers as real processes, driven the way the runtime and a front drive them."""
