// Reader for the npm package human, run by compare.py: node human_reader.cjs MODE FILE.
//
// Runs in the folder of its node_modules. MODE and FILE are photos and a list of JPEG files, one per
// line, or crops and grey faces of 48 x 48 bytes. The output is that of reader.py.

'use strict';

const fs = require('node:fs');
const path = require('node:path');

const modules = path.join(process.cwd(), 'node_modules');
const load = require('node:module').createRequire(path.join(modules, 'x'));
const SIDE = 48;
const NAMES = ['angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral'];

// Models and the backend's binary come from node_modules; Node's own fetch reads no files.
globalThis.fetch = async (file) => {
  const type = file.endsWith('.json') ? 'application/json' : 'application/wasm';
  return new Response(fs.readFileSync(file), { headers: { 'Content-Type': type } });
};

async function open() {
  load('@tensorflow/tfjs-backend-wasm');
  const { Human } = load(`${modules}/@vladmandic/human/dist/human.node-wasm.js`);
  const off = { enabled: false };
  const human = new Human({
    backend: 'wasm',
    wasmPath: `${modules}/@tensorflow/tfjs-backend-wasm/dist/`,
    modelBasePath: `${modules}/@vladmandic/human/models/`,
    cacheSensitivity: 0, // images are independent, unlike the frames of a video
    face: { detector: { maxDetected: 10 }, iris: off, description: off },
    body: off, hand: off, object: off, gesture: off, segmentation: off,
  });
  await human.init();
  await human.load();
  return human;
}

function decoded(tf, file) {
  const { width, height, data } = load('jpeg-js').decode(fs.readFileSync(file), { useTArray: true });
  return tf.tidy(() => tf.slice(tf.tensor3d(data, [height, width, 4], 'int32'), [0, 0, 0], [-1, -1, 3]));
}

async function readPhoto(human, file) {
  const image = decoded(human.tf, file);
  const { face, error } = await human.detect(image);
  human.tf.dispose(image);
  if (error) throw new Error(error);
  const largest = face.sort((one, other) => other.box[2] * other.box[3] - one.box[2] * one.box[3])[0];
  return largest?.emotion?.[0]?.emotion ?? null;
}

// Preprocessing of human's src/gear/emotion.ts, as the package does not accept face crops.
function readCrop(human, pixels) {
  const { tf } = human;
  const scores = tf.tidy(() => {
    const face = tf.tile(tf.tensor4d(pixels, [1, SIDE, SIDE, 1], 'float32'), [1, 1, 1, 3]);
    const resized = tf.image.resizeBilinear(tf.div(face, 255), [64, 64], false);
    const grey = tf.sum(tf.mul(resized, [0.2989, 0.5870, 0.1140]), 3, true);
    return human.models.models.emotion.execute(tf.mul(tf.sub(grey, 0.5), 2)).dataSync();
  });
  return NAMES[scores.indexOf(Math.max(...scores))];
}

const total = ({ user, system }) => (user + system) / 1e6;

async function main() {
  const [mode, file] = process.argv.slice(2);
  const human = await open();
  const content = fs.readFileSync(file);
  const sources = mode === 'photos'
    ? content.toString().split('\n').filter(Boolean)
    : Array.from({ length: content.length / SIDE ** 2 }, (_, i) => content.subarray(i * SIDE ** 2, (i + 1) * SIDE ** 2));
  const read = mode === 'photos' ? readPhoto : readCrop;
  const emotions = [];
  const seconds = [];
  let first = 0;
  for (const source of sources) {
    const started = process.cpuUsage();
    emotions.push(await read(human, source));
    seconds.push(total(process.cpuUsage(started)));
    first ||= total(process.cpuUsage());
  }
  console.log(JSON.stringify({ emotions, seconds, first }));
}

main().catch((error) => { console.error(error); process.exit(1); });
