/** Timelines as figures for reports and papers: on white, with title, source, means and notes. */

import { formatTime } from "../../../mien-web/analysis/index.js";
import { format, percent, strings } from "../../strings.js";
import { emotionName } from "../faces.js";
import { LIGHT, layoutWithMarkers, paint, signed } from "./paint.js";
import { CanvasPen, SvgPen, truncate, widthOf } from "./pens.js";
import { areDense } from "./series.js";

const WIDTH = 1200;
const PAD = 28;
const HEAD = 74;
const FOOT = 58;

/**
 * Draw a figure on a canvas.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} figure
 * @param {number} scale canvas pixels per unit of the figure
 */
export function paintFigure(canvas, figure, scale) {
  const layout = layoutOf(figure);
  canvas.width = WIDTH * scale;
  canvas.height = heightOf(layout) * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const pen = new CanvasPen(context);
  pen.rect(0, 0, WIDTH, heightOf(layout), LIGHT.ground);
  paintHead(pen, figure);
  context.translate(PAD, HEAD);
  paintBody(pen, figure, layout);
  context.translate(0, layout.height);
  paintFoot(pen, figure, layout);
}

/** Render a figure as SVG. */
export function figureSvg(figure) {
  const layout = layoutOf(figure);
  const pen = new SvgPen();
  pen.rect(0, 0, WIDTH, heightOf(layout), LIGHT.ground);
  paintHead(pen, figure);
  pen.move(PAD, HEAD, () => paintBody(pen, figure, layout));
  pen.move(PAD, HEAD + layout.height, () => paintFoot(pen, figure, layout));
  return pen.toString(WIDTH, heightOf(layout), { title: figure.title, description: subtitleOf(figure) });
}

const heightOf = (layout) => HEAD + layout.height + FOOT;

function layoutOf({ series, markers, domain, words, palette }) {
  const labels = series.labels.length > 0 ? series.labels : Object.keys(palette);
  const hasValence = series.rows.some((row) => row.valence !== null);
  return layoutWithMarkers({ width: WIDTH - 2 * PAD, labels, hasValence, domain, valence: words.valence, lane: 32 }, markers);
}

function subtitleOf({ series, domain, baseline, words }) {
  const [from, to] = domain.map((time) => formatTime(time));
  const subject = series.track === null ? words.label : format(strings.face.person, { number: series.track });
  return [subject, format(words.span, { from, to }), ...(baseline === null ? [] : [words.corrected])].join(" · ");
}

function paintHead(pen, figure) {
  const title = { size: 20, weight: 650 };
  pen.text(truncate(figure.title, WIDTH - 2 * PAD, title), PAD, 30, { ...title, fill: LIGHT.ink });
  pen.text(subtitleOf(figure), PAD, 55, { size: 14, fill: LIGHT.soft });
}

function paintBody(pen, figure, layout) {
  const { series, palette, words } = figure;
  paint(pen, layout, { series, theme: LIGHT, palette, words });
  const means = meansOf(series, layout.domain);
  if (means === null) return;
  const look = { size: layout.size, fill: LIGHT.soft, align: "right" };
  pen.group("means", () => {
    pen.text(words.mean, layout.width, layout.strip.top + layout.strip.height / 2, look);
    layout.lanes.forEach(({ top, height }, at) => pen.text(percent(means.scores[at]), layout.width, top + height / 2, look));
    if (layout.valence !== null && means.valence !== null) {
      pen.text(signed(means.valence), layout.width, layout.valence.top + layout.valence.height / 2, look);
    }
  });
}

/** Time-weighted means while the person is visible. */
function meansOf(series, [from, to]) {
  const sums = { seconds: 0, scores: series.labels.map(() => 0), valence: 0, hasValence: true };
  series.rows.forEach((row, index) => {
    const seconds = Math.min(to, series.until(index)) - Math.max(from, row.time);
    if (row.reading === null || seconds <= 0) return;
    sums.seconds += seconds;
    series.labels.forEach((label, at) => (sums.scores[at] += seconds * row.reading.scores[label]));
    if (row.valence === null) sums.hasValence = false;
    else sums.valence += seconds * row.valence;
  });
  if (sums.seconds === 0) return null;
  return { scores: sums.scores.map((sum) => sum / sums.seconds), valence: sums.hasValence ? sums.valence / sums.seconds : null };
}

function paintFoot(pen, { series, domain, result, palette, words }, layout) {
  let x = 0;
  const y = 16;
  const look = { size: 12, fill: LIGHT.soft };
  const labels = series.labels.length > 0 ? series.labels : Object.keys(palette);
  const note = format(words.note, { emotions: labels.map(emotionName).join(", ") });
  pen.text(areDense(series, domain, layout.plot) ? `${note} ${words.paler}` : note, x, y, look);
  pen.group("legend", () => {
    pen.hatch(x, y + 14, 22, 12, LIGHT.hatch);
    pen.text(words.absent, x + 28, y + 20, look);
    x += 28 + widthOf(words.absent, look) + 22;
    pen.line([[x, y + 20], [x + 22, y + 20]], LIGHT.ink, { width: 2, dash: [2, 3] });
    pen.text(words.uncertain, x + 28, y + 20, look);
  });
  const model = result?.model ? `${result.model.name} ${result.model.version}` : "";
  const reading = strings.readings[result?.labels] ?? "";
  const source = ["mien studio", model, reading].filter(Boolean).join(" · ");
  pen.text(source, WIDTH - 2 * PAD, y + 20, { ...look, align: "right" });
}
