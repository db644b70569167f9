"""The HTTP server in each worker process: gunicorn watches over it, httptools reads, uvloop waits."""
