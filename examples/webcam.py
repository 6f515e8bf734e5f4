"""Print the emotions of the people in a camera, video or stream, twice a second, until Ctrl-C.

python examples/webcam.py
python examples/webcam.py clip.mp4
"""

import sys

import mien


def main() -> None:
    """Print a line per analyzed frame."""
    source = sys.argv[1] if len(sys.argv) > 1 else "0"
    recognizer = mien.load()
    camera_or_file = int(source) if source.isdigit() else source
    for result in recognizer.analyze_video(camera_or_file, every=0.5):
        if result.error:
            print(result.error)
            continue
        people = [
            f"#{face.track_id} {face.smoothed.emotion} {face.smoothed.confidence:.0%}"
            for face in result.faces
            if face.smoothed is not None
        ]
        print(f"{result.time_s:6.1f} s  {', '.join(people) or 'nobody'}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except mien.MienError as error:  # no camera, or a missing extra, in one line
        sys.exit(str(error))
