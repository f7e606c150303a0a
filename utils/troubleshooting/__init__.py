"""After a traceback: what an error that people often meet means here, and what to try. This folder can be deleted."""
