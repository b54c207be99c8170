"""What is run by a test in a process of its own is not looked into by pytest."""

collect_ignore = ["lxt_reference.py"]
