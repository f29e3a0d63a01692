"""Prints what the real tensorboard package reads from a folder of event files: {tag: [[step, value], ...]} as JSON.

usage: read_events.py FOLDER
"""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    events = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0})  # 0: keep all
    events.Reload()
    scalars = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    json.dump(scalars, sys.stdout)
    print()


if __name__ == "__main__":
    main()
