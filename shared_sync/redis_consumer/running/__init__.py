"""Running the processor of each reader, in its thread or in a child process."""
