"""Videos, streams and cameras: frames with their time, people followed, scores smoothed."""
