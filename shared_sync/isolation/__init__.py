"""Child processes that run the processor: one for each reader, replaced when it dies."""
