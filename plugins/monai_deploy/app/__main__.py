"""The entry point of the application package: `python3 /opt/holoscan/app`."""

from app import main

main()
