"""The commands of `shared-sync`, one module for each."""
