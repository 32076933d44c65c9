"""The annotation page: a server for one session on this machine, and the page that it serves (`static/`)."""
