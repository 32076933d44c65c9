"""One file a table or figure; README.md holds every result with its command, commit, seed and machine."""
