"""What is no fault of a message: broken workers, and why readers take no messages."""
