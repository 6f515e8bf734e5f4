// Analyses the scenes on stdin with mien-web/analysis and writes the results to stdout.
import { readFileSync } from "node:fs";

const analysis = await import(process.argv[2]);
const { scenes, costs, pictures, values, times } = JSON.parse(readFileSync(0, "utf8"));
const pixelsOf = (picture) => (
  picture === null ? undefined : { ...picture, data: Buffer.from(picture.rgba, "base64") }
);

function figures({ frames, every, baseline: span, markers, labels }) {
  const tracker = analysis.createTracker({ every });
  const options = { gap: analysis.memoryFor(every), labels };
  const results = frames.map(({ result, pixels }) => tracker.update(result, pixelsOf(pixels)));
  const baseline = analysis.measureBaseline(results, { start: span[0], end: span[1] });
  const corrected = analysis.applyBaseline(results, baseline);
  const session = { name: "a.mp4", created: "", labels: "", model: null, markers, baseline, results };
  return {
    results: corrected,
    csv: analysis.toCsv(results, { labels }),
    correctedCsv: analysis.toCsv(corrected, { labels, corrected: true }),
    people: analysis.people(results, options),
    episodes: analysis.episodes(results, options),
    summary: analysis.summary(corrected, options),
    events: analysis.markersToCsv(analysis.markerTable(results, markers, options), "a.mp4"),
    correctedEvents: analysis.markersToCsv(
      analysis.markerTable(corrected, markers, { ...options, corrected: true }), "a.mp4",
    ),
    comparison: analysis.comparisonToCsv(
      analysis.compare([session, { name: "b.mp4", results: [] }], options),
    ),
    saved: analysis.fromJson(analysis.toJson({ ...session, results: corrected })).results,
  };
}

const cuts = new analysis.CutFinder();
process.stdout.write(JSON.stringify({
  scenes: scenes.map(figures),
  pairs: costs.map((table) => analysis.assign(
    table.map((row) => row.map((cost) => cost ?? Infinity)),
  )),
  cuts: pictures.map((picture, index) => cuts.isCut(index * 0.1, pixelsOf(picture))),
  csv: analysis.comparisonToCsv(values.map((value) => ({ value: analysis.round6(value) }))),
  times: times.map((text) => {
    try {
      return analysis.formatTime(analysis.parseTime(text));
    } catch (error) {
      return error.message;
    }
  }),
}));
