"""In your program: the executor, the job handle, and the session that brings a master up."""
