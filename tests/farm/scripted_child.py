"""``kronexport.farm.child`` with the scripted agent in the place of the real one."""

from pathlib import Path

from kronexport import agent
from kronexport.farm import child

agent.__file__ = str(Path(__file__).with_name("scripted_agent.py"))

if __name__ == "__main__":
    child.main()
