// Pixel operations of mien-web: JSON requests on stdin, JSON results on stdout.
import { readFileSync } from "node:fs";

const [, , library] = process.argv;
const pictures = await import(`${library}/pictures.js`);
const { cropFace, toFaceInput, turnOf } = await import(`${library}/preprocess.js`);
const { qualityOf } = await import(`${library}/quality.js`);
const { decode } = await import(`${library}/detector.js`);
const { overWhite } = await import(`${library}/images.js`);
const { probabilities } = await import(`${library}/classifier.js`);

const grey = (data, side = 48) => ({ data, width: side, height: side, channels: 1 });
const OPERATIONS = {
  ...pictures,
  cropFace: (picture, box, scale, turn) => grey(cropFace(picture, box, scale, turn)),
  toFaceInput: (picture) => grey(toFaceInput(picture)),
  overWhite: (picture) => pictures.dropFourthChannel(overWhite(picture)),
};
const FIGURES = {
  turnOf,
  qualityOf: (face, box, landmarks) => qualityOf(Uint8Array.from(face), box, landmarks),
  decode: (scores, offsets, width, height) =>
    decode(Float32Array.from(scores), Float32Array.from(offsets), width, height),
  probabilities: (logits, reading) => [...probabilities(logits, reading)],
};

const answer = ({ operation, picture, given }) => {
  if (!picture) return FIGURES[operation](...given);
  const { width, height, channels } = picture;
  const data = Uint8Array.from(Buffer.from(picture.data, "base64"));
  const made = OPERATIONS[operation]({ data, width, height, channels }, ...given);
  return { ...made, data: Buffer.from(made.data).toString("base64") };
};
process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(answer)));
