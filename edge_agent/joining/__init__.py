"""What ``fedge-agent join`` does with a join file: its folder, its source, what is looked at first, and who keeps the agent running.

Read `edge_agent.commands.joining` first: it is the order of all this.
"""
