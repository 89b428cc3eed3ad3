"""When it collapses: faults injected into the online-fix loop, how soon they are noticed, what is saved."""
