"""MedMNIST by name."""
