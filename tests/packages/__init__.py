"""What the packages hold."""

RPM_PYTHON = "python3.11"  # what runs the agent where the rpms of the tests are installed
