import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import * as analysis from "../src/analysis/index.js";
import {
  EMOTIONS, applyBaseline, compare, comparisonToCsv, correct, createTracker, episodes, fromJson, markerTable,
  measureBaseline, readMarkers, scoreColumns, summary, toCsv, toJson, valence, writeMarkers,
} from "../src/analysis/index.js";

const MODEL = { name: "tiny", version: "1.0.0", sha256: "ab" };

function scoresOf(emotion, confidence = 0.7) {
  const rest = (1 - confidence) / 6;
  return Object.fromEntries(EMOTIONS.map((name) => [name, name === emotion ? confidence : rest]));
}

function faceOf(emotion, x = 10) {
  return {
    face_id: 0, track_id: null, box: { x, y: 10, w: 40, h: 40 }, face_confidence: 0.9, emotion,
    confidence: 0.7, uncertain: false, scores: scoresOf(emotion),
    quality: { size_px: 40, blur: 0.1, flags: ["small", "dark"] },
  };
}

function found(time, ...faces) {
  return {
    schema: "mien/1", source: "a.mp4", frame: Math.round(time * 10), time_s: time,
    status: faces.length > 0 ? "ok" : "no_face", width: 320, height: 240, faces, model: MODEL,
    labels: "people",
  };
}

/** Results of 4 seconds: neutral for two, then happy. */
function recording() {
  const tracker = createTracker();
  return Array.from({ length: 40 }, (_, number) => tracker.update(
    found(number / 10, faceOf(number < 20 ? "neutral" : "happy")),
  ));
}

function session() {
  const results = recording();
  return {
    name: "talk", created: "2024-05-01T10:00:00Z", labels: "people", model: MODEL,
    markers: [{ start: 1, end: 2.5, label: "joke" }],
    baseline: measureBaseline(results, { start: 0, end: 1 }), results,
  };
}

test("the types declare exactly the exported names", () => {
  const types = readFileSync(new URL("../analysis.d.ts", import.meta.url), "utf8");
  const declared = [...types.matchAll(/^export (?:const|function|class) (\w+)/gm)].map((match) => match[1]);
  assert.deepEqual(declared.sort(), Object.keys(analysis).sort());
});

test("valence is happy minus the largest unpleasant score", () => {
  assert.equal(valence({ happy: 0.5, angry: 0.1, disgust: 0, fear: 0, sad: 0.25 }), 0.25);
  assert.equal(valence({ calm: 0.5, bored: 0.5 }), null);
});

test("a tracker needs frames with a time, and returns results with an error unchanged", () => {
  const tracker = createTracker();
  assert.throws(() => tracker.update(found(null)), /time_s/);
  const broken = { ...found(null), status: "unreadable", error: "it breaks off" };
  assert.equal(tracker.update(broken), broken);
  assert.throws(() => createTracker({ smooth: -1 }), /0 seconds or more, got -1/);
});

test("arguments are not modified", () => {
  const first = Object.freeze(found(0, Object.freeze(faceOf("sad"))));
  const results = [createTracker().update(first)];
  assert.equal(first.faces[0].track_id, null);
  const corrected = applyBaseline(results, measureBaseline(results, { start: 0, end: 1 }));
  assert.equal(results[0].faces[0].corrected, undefined);
  assert.equal(corrected[0].faces[0].corrected.emotion, "neutral");
});

test("consecutive episodes have no gap between them", () => {
  const [first, second] = episodes(recording());
  assert.deepEqual([first.emotion, second.emotion], ["neutral", "happy"]);
  assert.equal(first.end_s, second.start_s);
  assert.ok(second.start_s > 2 && second.start_s < 2.6);
  assert.ok(second.peak > second.confidence);
});

test("a baseline makes a face at rest neutral", () => {
  const results = recording();
  const baseline = measureBaseline(results, { start: 2.5, end: 4 });
  const corrected = correct(results[39].faces[0].scores, baseline);
  assert.ok(Math.abs(corrected.neutral - 0.72) < 0.05);
  assert.ok(Math.abs(Object.values(corrected).reduce((sum, each) => sum + each) - 1) < 1e-12);
  const scores = scoresOf("sad");
  assert.equal(correct(scores, baseline, 7), scores);
});

test("a baseline without a face, or of a model without neutral, is refused", () => {
  const results = recording();
  assert.throws(() => measureBaseline(results, { start: 8, end: 9 }), /no face is seen from 8 to 9 s/);
  assert.throws(() => measureBaseline(results, { start: 0, end: 1, track: 4 }), /person 4 is not seen/);
  assert.throws(() => measureBaseline(results, { start: 2, end: 2 }), /end after the start/);
  const own = { ...faceOf("happy"), track_id: 0, scores: { bored: 0.4, awake: 0.6 } };
  assert.throws(() => measureBaseline([found(0, own)], { start: 0, end: 1 }), /bored, awake/);
});

test("an event without an end lasts until the end of the recording", () => {
  const rows = markerTable(recording(), [{ start: 3, end: null, label: "rest" }]);
  assert.equal(rows.length, 1);
  assert.equal(rows[0].end_s, null);
  assert.equal(rows[0].seconds, 1);
  assert.equal(rows[0].share_happy, 1);
  assert.deepEqual(Object.keys(rows[0]).slice(0, 8), [
    "label", "start_s", "end_s", "track_id", "seconds", "frames", "valence", "angry",
  ]);
});

test("without faces a summary is empty and a comparison has no scores", () => {
  assert.deepEqual(summary([found(0), found(0.1)]), []);
  const [row] = compare([{ name: "empty", results: [found(0)] }]);
  assert.deepEqual([row.people, row.seconds, row.frames, row.happy], [0, 0, 1, null]);
});

test("a comparison leaves cells empty for emotions that a session's model does not have", () => {
  const own = { ...faceOf("happy"), track_id: 0, scores: { happy: 0.25, constructor: 0.75 }, emotion: "constructor" };
  const sessions = [{ name: "seven", results: recording() }, { name: "own", results: [found(0, own)] }];
  const rows = compare(sessions);
  assert.deepEqual(rows.map((row) => Object.keys(row)), [Object.keys(rows[0]), Object.keys(rows[0])]);
  const [seven, other] = rows;
  assert.deepEqual([seven.constructor, seven.share_constructor, seven.share_angry], [null, null, 0]);
  assert.ok(seven.angry > 0 && seven.valence !== null);
  assert.deepEqual([other.happy, other.constructor, other.share_happy, other.share_constructor], [0.25, 0.75, 0, 1]);
  assert.deepEqual([other.angry, other.share_angry, other.valence], [null, null, null]);
  const [head, , line] = comparisonToCsv(rows).split("\n");
  const cells = Object.fromEntries(head.split(",").map((name, at) => [name, line.split(",")[at]]));
  assert.deepEqual([cells.angry, cells.share_angry, cells.happy, cells.constructor], ["", "", "0.25", "0.75"]);
  assert.equal(comparisonToCsv([{ source: "a" }, { source: "b", calm: 0.5 }]), "source,calm\na,\nb,0.5\n");
});

test("CSV cells are quoted if necessary, and a frame without faces has a line", () => {
  const named = { ...found(1), source: 'a "b", c.mp4' };
  const lines = toCsv([named, recording()[0]]).split("\n");
  assert.ok(lines[0].startsWith("source,frame,time_s,face_id,track_id,status,x,y,w,h"));
  assert.ok(lines[0].endsWith("smoothed_surprise,error,flags,valence"));
  assert.ok(lines[1].startsWith('"a ""b"", c.mp4",10,1.0,,,no_face,,'));
  assert.ok(lines[2].includes(",small;dark,"));
  assert.equal(lines.length, 4);
  const photo = toCsv([{ ...found(0, faceOf("sad")), time_s: null }]).split("\n");
  assert.ok(!photo[0].includes("smoothed"));
});

test("a class named like a column gets another name", () => {
  assert.deepEqual(scoreColumns(["calm", "Status", "smoothed_x", "frames", "share_calm"]), {
    calm: "calm", Status: "score_Status", smoothed_x: "score_smoothed_x", frames: "score_frames",
    share_calm: "score_share_calm",
  });
});

test("markers are read from written files and from other common formats", () => {
  const markers = [{ start: 1, end: 2.5, label: 'a "b", c' }, { start: 3, end: null, label: "" }];
  assert.deepEqual(readMarkers(writeMarkers(markers, 4)), [markers[0], { ...markers[1], end: 4 }]);
  const text = "\uFEFFLabel;Start;End\r\nfirst;0:10;1:02:03.5\r\n\r\nsecond;5s;6\r\n";
  assert.deepEqual(readMarkers(text), [
    { start: 10, end: 3723.5, label: "first" }, { start: 5, end: 6, label: "second" },
  ]);
  for (const [bad, message] of [
    ["start,end\n1,2\n", /label is missing/],
    ["start,end,label\n", /empty/],
    ["start,end,label\n2,1,x\n", /marker 1: expected an end after the start/],
    ["start,end,label\n1,soon,x\n", /marker 1: expected a time/],
  ]) assert.throws(() => readMarkers(bad), message);
});

test("a saved session is read back unchanged", () => {
  const saved = session();
  const text = toJson(saved);
  const read = fromJson(text);
  assert.deepEqual(read.markers, saved.markers);
  assert.deepEqual(read.baseline, saved.baseline);
  assert.equal(read.results.length, 40);
  assert.equal(toJson(read), text);
  assert.equal(text.split("\n").length, 43);
});

test("the JSON of mien predict VIDEO is a session, too", () => {
  const frames = recording();
  const read = fromJson(JSON.stringify({ schema: "mien-video/1", source: "a.mp4", frames, people: [] }));
  assert.deepEqual([read.name, read.labels, read.results.length], ["a.mp4", "people", 40]);
});

test("a damaged or foreign file is refused with a one-line message", () => {
  const text = toJson(session());
  const broken = (change) => {
    const read = JSON.parse(text);
    change(read);
    return JSON.stringify(read);
  };
  for (const [bad, message] of [
    ["", /expected JSON/],
    [text.slice(0, 2000), /expected JSON/],
    ["[]", /expected "schema": "mien-session\/1", got nothing/],
    ['{"schema": "mien-session/2"}', /a newer version of mien/],
    ['{"schema": "other"}', /got "other"/],
    ["null", /not a saved session/],
    ['{"schema": "mien-session/1", "name": "a"}', /expected created as text/],
    [broken((read) => { read.results = {}; }), /results as a list/],
    [broken((read) => { read.results[3] = null; }), /result 4/],
    [broken((read) => { read.results[3].time_s = 0; }), /result 4's time_s/],
    [broken((read) => { read.results[3].faces[0].scores.happy = "1"; }), /result 4's scores/],
    [broken((read) => { delete read.results[3].faces[0].smoothed.scores.sad; }), /smoothed's scores/],
    [broken((read) => { read.results[3].faces[0].box.w = 0; }), /result 4's box/],
    [broken((read) => { read.results[3].faces = []; }), /ok exactly with faces/],
    [broken((read) => { read.markers[0].end = 0; }), /marker 1's end/],
    [broken((read) => { read.baseline.shifts = { 0: { happy: null } }; }), /baseline/],
    [broken((read) => { delete read.baseline.shifts[0].sad; }), /shifts of each label/],
    [broken((read) => { read.results[0].faces[0].emotion = "<b>"; }), /result 1's emotion/],
    [broken((read) => { read.results[39].time_s = 1e300; }), /result 40's time_s/],
    [broken((read) => { read.results[0].source = {}; }), /result 1's source/],
    [broken((read) => { read.results[0].faces[0].quality.flags = [{}]; }), /result 1's quality/],
    [broken((read) => { read.model = { name: "tiny" }; }), /model as name, version and sha256/],
  ]) {
    assert.throws(() => fromJson(bad), (error) => {
      assert.match(error.message, message);
      assert.ok(!error.message.includes("\n"));
      return true;
    });
  }
});
