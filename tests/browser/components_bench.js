// Turns a blank page of the service into a test bench for the studio's components; see test_components.py.
async ({ palette, scheme }) => {
  document.documentElement.lang = "en";
  document.documentElement.dataset.theme = scheme;
  const sheets = ["studio.css", "timeline.css"].map((name) => {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = `/studio/${name}`;
    return link;
  });
  const loaded = sheets.map((link) => new Promise((resolve) => (link.onload = resolve)));
  document.head.replaceChildren(document.createElement("title"), ...sheets);
  document.title = "Components";
  const main = document.createElement("main");
  main.className = "main";
  document.body.replaceChildren(main);
  await Promise.all(loaded);
  const [timeline, report, download, analysis] = await Promise.all([
    import("/studio/components/timeline.js"), import("/studio/components/report.js"),
    import("/studio/components/download.js"), import("/mien-web/analysis/index.js"),
  ]);
  Object.assign(window, { ...timeline, ...report, ...download, analysis, palette, main, seeks: [], spans: [] });

  /* Results of `seconds`: one person is neutral, then happy from the middle on, with a single frame of surprise at a
     quarter; uncertain in the first tenth, absent from 0.6 to 0.68. A second person appears at 0.8. */
  window.made = (seconds, rate) => {
    const tracker = analysis.createTracker({ smooth: 0 });
    const face = (index, emotion, top, uncertain) => {
      const scores = Object.fromEntries(analysis.EMOTIONS.map((name) => [name, name === emotion ? top : (1 - top) / 6]));
      return {
        face_id: index, track_id: null, box: { x: 20 + 200 * index, y: 20, w: 90, h: 90 }, face_confidence: 0.9,
        emotion, confidence: top, uncertain, scores, quality: { size_px: 90, blur: 0, flags: [] },
      };
    };
    return Array.from({ length: seconds * rate }, (_, frame) => {
      const share = frame / (seconds * rate);
      const faces = [];
      const isPeak = frame === Math.floor((seconds * rate) / 4);
      const emotion = isPeak ? "surprise" : share < 0.5 ? "neutral" : "happy";
      const isAway = share >= 0.6 && share < 0.68;
      if (!isAway) faces.push(face(0, emotion, isPeak ? 0.94 : share < 0.1 ? 0.3 : 0.7, share < 0.1));
      if (share >= 0.8) faces.push(face(1, "sad", 0.6, false));
      return tracker.update({
        schema: "mien/1", source: "talk.mp4", frame, time_s: frame / rate, status: isAway ? "no_face" : "ok",
        width: 640, height: 480, faces, labels: "people",
        model: { name: "mien-nano", version: "1.0.0", sha256: "ab" },
      });
    });
  };

  /* Show results in a timeline and wait until it is drawn. */
  window.shown = async (seconds, rate, options = {}) => {
    const chart = createTimeline({ palette });
    main.replaceChildren(chart.element);
    chart.onSeek((time) => seeks.push(time));
    chart.onSelect((span) => spans.push(span));
    window.results = made(seconds, rate);
    chart.set(results, { track: 0, ...options });
    window.timeline = chart;
    await drawn();
  };
  window.canvasBlob = () => new Promise((resolve) => document.querySelector(".timeline-canvas").toBlob(resolve));
  window.drawn = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}
