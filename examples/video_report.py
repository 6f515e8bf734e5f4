"""Summarize a video: a chart of emotions over time, and a table of each person's episodes.

python examples/video_report.py clip.mp4
"""

import csv
import sys
from pathlib import Path

import mien


def main() -> None:
    """Write NAME.timeline.png and NAME.episodes.csv into this folder."""
    video = Path(sys.argv[1])
    results = mien.load().analyze_video(video, every=0.2)
    people = results.people()  # analyzes the whole video in bounded memory
    results.timeline().save(f"{video.stem}.timeline.png")
    rows = [
        {"person": person.track_id, **episode.to_dict()}
        for person in people
        for episode in person.episodes
    ]
    with Path(f"{video.stem}.episodes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["person"])
        writer.writeheader()
        writer.writerows(rows)
    print(f"people: {len(people)}, episodes: {len(rows)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main()
    except mien.MienError as error:  # one line: what happened and how to fix it
        sys.exit(str(error))
