/** Report of a recording: tables of people, episodes and events. */

import { applyBaseline, episodes, formatTime, labelsOf, markerTable, scoreColumns, summary } from "../../mien-web/analysis/index.js";
import { counted, format, percent, strings as pageStrings } from "../strings.js";
import { fill, h, newId } from "./dom.js";
import { colourOf, emotionName } from "./faces.js";
import { signed } from "./timeline/paint.js";

const MAX_ROWS = 25; // of a table before "show all"

/**
 * Render the report of a recording.
 *
 * @param {object[]} results frame results in order, tracked and smoothed
 * @param {object} options
 * @param {{start: number, end: number|null, label: string}[]} [options.markers]
 * @param {object|null} [options.baseline] from measureBaseline, to correct people and events; not needed if the results
 *   are corrected already
 * @param {Record<string, string>} options.palette
 * @param {object} [options.strings]
 * @param {string[]} [options.emotions] of the model; by default those of the faces
 * @returns {HTMLElement}
 */
export function renderReport(results, { markers = [], baseline = null, palette, strings = pageStrings, emotions } = {}) {
  const corrected = baseline === null ? results : applyBaseline(results, baseline);
  const labels = emotions ?? labelsOf(corrected);
  const isCorrected = corrected.some((result) => result.faces.some((face) => face.corrected != null));
  const page = { words: strings.report, strings, palette, labels, isCorrected };
  const parts = [peopleTable(summary(corrected, { labels }), page), episodeTable(episodes(corrected), page)];
  if (markers.length > 0) parts.push(markerTables(corrected, markers, page));
  return h("section.report", { "aria-label": page.words.label }, parts);
}

// ---------------------------------------------------------------- people
function peopleTable(people, page) {
  const { words, labels } = page;
  const hint = page.isCorrected ? `${words.peopleHint} ${words.corrected}` : words.peopleHint;
  const head = [words.person, figure(words.seen), words.shares, ...labels.map((label) => figure(emotionName(label))), figure(words.valence), figure(words.uncertain)];
  const rows = people.map((person) => {
    const { shares, valence } = person.corrected ?? person;
    const isRaw = page.isCorrected && person.corrected === undefined;
    return [
      rowHead(personName(person.track_id, page), isRaw && h("span.hint", null, ` ${words.raw}`)),
      figureCell(duration(person.seconds, words)),
      h("td.bar-cell", null, sharesBar(shares, page)),
      ...shareCells(shares, labels),
      figureCell(valence === null ? "–" : signed(valence)),
      figureCell(percent(person.uncertain)),
    ];
  });
  return table({ title: words.people, hint, head, rows, empty: words.nobody, page });
}

/** Stacked bar of the shares of time; the values are in the other cells. */
function sharesBar(shares, { labels, palette }) {
  const parts = labels.filter((label) => shares[label] > 0);
  const pieces = parts.map((label) => h("span", {
    title: `${emotionName(label)} ${percent(shares[label])}`,
    style: { "--share": shares[label], "--color": colourOf(palette, label, labels) },
  }));
  return h("div.shares", { "aria-hidden": "true" }, pieces);
}

function shareCells(shares, labels) {
  const most = Math.max(...labels.map((label) => shares[label] ?? 0));
  return labels.map((label) => {
    const share = shares[label];
    return share == null ? figureCell("–") : figureCell(percent(share), share === most ? "most" : "");
  });
}

// ---------------------------------------------------------------- episodes
function episodeTable(list, page) {
  const { words } = page;
  const head = [words.person, figure(words.start), figure(words.end), figure(words.lasts), words.emotion, figure(words.mean), figure(words.peak)];
  const rows = list.map((episode) => [
    rowHead(personName(episode.track_id, page)),
    figureCell(formatTime(episode.start_s)),
    figureCell(formatTime(episode.end_s)),
    figureCell(duration(episode.end_s - episode.start_s, words)),
    h("td", null, emotionTag(episode.emotion, page)),
    figureCell(percent(episode.confidence)),
    figureCell(percent(episode.peak)),
  ]);
  const hint = page.isCorrected ? `${words.episodesHint} ${words.notCorrected}` : words.episodesHint;
  return table({ title: words.episodes, hint, head, rows, empty: words.noEpisodes, page });
}

function emotionTag(emotion, { palette, labels }) {
  return h("span.emotion", null, h("span.dot", { style: { "--color": colourOf(palette, emotion, labels) } }), emotionName(emotion));
}

// ---------------------------------------------------------------- events
function markerTables(results, markers, page) {
  const { words, labels, isCorrected } = page;
  const last = results.findLast((result) => result.time_s != null)?.time_s ?? 0;
  const ended = markers.map((marker) => ({ ...marker, end: marker.end ?? Math.max(last, marker.start) }));
  const prefix = isCorrected ? "corrected_" : "";
  const columns = scoreColumns(labels);
  const head = [words.event, figure(words.start), figure(words.end), words.person, figure(words.seen), words.emotion, figure(words.valence), ...labels.map((label) => figure(emotionName(label)))];
  const rows = markerTable(results, ended, { labels, corrected: isCorrected }).map((row) => {
    const kind = row[prefix + columns[labels[0]]] == null ? "" : prefix; // this person has no baseline
    const means = Object.fromEntries(labels.map((label) => [label, row[kind + columns[label]]]));
    const most = labels.reduce((best, label) => ((means[label] ?? -1) > (means[best] ?? -1) ? label : best));
    return [
      rowHead(row.label || words.unnamed),
      figureCell(formatTime(row.start_s)),
      figureCell(formatTime(row.end_s)),
      h("td", null, row.track_id === null ? words.nobodySeen : personName(row.track_id, page)),
      figureCell(duration(row.seconds, words)),
      h("td", null, means[most] === null ? "–" : emotionTag(most, page)),
      figureCell(row[`${kind}valence`] == null ? "–" : signed(row[`${kind}valence`])),
      ...shareCells(means, labels),
    ];
  });
  const hint = isCorrected ? `${words.eventsHint} ${words.corrected}` : words.eventsHint;
  return table({ title: words.events, hint, head, rows, empty: words.noEvents, page });
}

// ---------------------------------------------------------------- tables
const figure = (text) => ({ text, isFigure: true });
const figureCell = (text, className = "") => h("td.figure", { class: className }, text);
const rowHead = (...parts) => h("th", { scope: "row" }, parts);
const duration = (seconds, words) => (seconds < 60 ? format(words.seconds, { seconds: seconds.toFixed(1) }) : formatTime(seconds, 0));
const personName = (track, { strings }) => format(strings.face.person, { number: track });

function table({ title, hint, head, rows, empty, page }) {
  const { words } = page;
  const id = newId("report");
  const caption = h("caption", { id }, h("div.report-caption", null, h("strong", null, title), h("span.hint", null, hint)));
  const heads = head.map((cell) => h("th", { scope: "col", class: cell.isFigure ? "figure" : "" }, cell.text ?? cell));
  if (rows.length === 0) return h("div.panel", null, h("h2", null, title), h("p.soft", null, empty));
  const body = h("tbody");
  const show = (count) => fill(body, rows.slice(0, count).map((cells) => h("tr", null, cells)));
  show(MAX_ROWS);
  const scroll = h("div.scroll", { role: "region", tabIndex: 0, "aria-labelledby": id }, h("table.table", null, caption, h("thead", null, h("tr", null, heads)), body));
  const panel = h("div.panel.report-table", null, scroll);
  if (rows.length <= MAX_ROWS) return panel;
  const more = h("button.button", { type: "button" }, counted(words.showAll, rows.length));
  more.addEventListener("click", () => {
    show(rows.length);
    more.remove();
    scroll.focus();
  });
  panel.append(more);
  return panel;
}
