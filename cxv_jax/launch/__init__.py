"""How programs of this project start: flags, one-line errors, memory settings, child processes."""
