"""One file per step, in the order of their numbers; who runs them is `store.migrate`."""
