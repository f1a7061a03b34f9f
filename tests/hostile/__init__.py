"""Files that strangers might send: each maker writes one below a folder, says in its docstring what it is after, and returns it."""
