"""What is well with a plant and what is not: `fedge doctor`. It reads and dials, and changes nothing.

Each part looks at one matter and returns findings: a verdict, what was seen, and what to do about it.
"""
