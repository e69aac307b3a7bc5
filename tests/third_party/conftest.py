"""The outside plugin's own tests run where it is installed: in a process that test_installed_plugin.py starts."""

collect_ignore = ["sslx-demo-denoise"]
