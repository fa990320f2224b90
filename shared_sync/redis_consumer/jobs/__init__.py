"""What a message can do while it runs: learn of its cancellation, report progress, emit."""
