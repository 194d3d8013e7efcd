"""``python -m kronexport``."""

from kronexport.cli import main

main()
