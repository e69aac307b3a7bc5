"""The outside plugin's own modules are imported where it is installed: in a process that a test starts."""

collect_ignore = ["sslx-demo-notes"]
